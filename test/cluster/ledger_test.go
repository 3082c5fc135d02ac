package cluster_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sealpost/sealpost/test/rig"
)

// check waits until every accepted event has ended at every endpoint, in the view, and holds the view, and what the partner got,
// against what the publishers were told.
func (w *world) check() {
	w.Helper()
	of := w.byTenant()
	states := map[string]int{}
	for tenant, endpoints := range w.endpoints {
		for path, ep := range endpoints {
			w.settled(tenant, path, ep, of[tenant])
			w.checkEndpoint(tenant, path, ep, of[tenant], states)
		}
	}
	w.checkOrder()
	duplicates := w.checkDuplicates()
	receipts := 0
	w.partner.mu.Lock()
	for _, all := range w.partner.receipts {
		receipts += len(all)
	}
	w.partner.mu.Unlock()
	w.Logf("%d events accepted, %d answers that were repeated; terminal states %v; %d receipts, %d of them duplicates of what was in flight",
		w.accepted.Load(), w.refused.Load(), states, receipts, duplicates)
}

// byTenant are the accepted events of each tenant.
func (w *world) byTenant() map[string]map[string]*fate {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[string]map[string]*fate{}
	for id, f := range w.fates {
		tenant := ""
		if f.publisher >= 0 {
			tenant = tenants[f.publisher%len(tenants)]
		} else {
			tenant = strings.Split(id, "-")[1]
		}
		if out[tenant] == nil {
			out[tenant] = map[string]*fate{}
		}
		if !f.ok {
			w.Errorf("%s was never accepted", id)
		}
		out[tenant][id] = f
	}
	return out
}

// listed are the deliveries to an endpoint of the events of this scenario.
func (w *world) listed(tenant string, ep rig.Endpoint, events map[string]*fate) (out []rig.Object) {
	for _, d := range w.apis[0].In(w).Deliveries("tenant=" + tenant + "&endpointId=" + ep.ID) {
		if events[d.S("eventId")] != nil {
			out = append(out, d)
		}
	}
	return out
}

func (w *world) settled(tenant, path string, ep rig.Endpoint, events map[string]*fate) {
	w.Helper()
	open, waits := 0, map[string]int{}
	rig.Eventually(w, fmt.Sprintf("all %d deliveries to %s of %s are settled", len(events), path, tenant), func() bool {
		list := w.listed(tenant, ep, events)
		open = 0
		clear(waits)
		for _, d := range list {
			switch d.S("state") {
			case "DELIVERED", "DEAD", "WITHHELD", "CANCELLED":
			default:
				open++
				waits[d.S("state")+" "+d.S("reason")]++
			}
		}
		waits["listed"] = len(list)
		return open == 0 && len(list) >= len(events)
	}, func() string { return fmt.Sprintf("%d are open, %v", open, waits) })
}

func (w *world) checkEndpoint(tenant, path string, ep rig.Endpoint, events map[string]*fate, states map[string]int) {
	w.partner.mu.Lock()
	defer w.partner.mu.Unlock()
	seen := map[string]bool{}
	for _, d := range w.listed(tenant, ep, events) {
		id, event := d.S("id"), d.S("eventId")
		if seen[event] {
			w.Errorf("%s has two deliveries to %s of %s", event, path, tenant)
		}
		seen[event] = true
		states[d.S("state")]++
		if d.S("state") != "DELIVERED" {
			w.Errorf("%s to %s ended as %s, %s", event, path, d.S("state"), d.S("reason"))
		}
		if !slices.ContainsFunc(w.partner.receipts[id], func(r receipt) bool { return r.ok && r.event == event }) {
			w.Errorf("%s to %s is DELIVERED in the view, and was not received", event, path)
		}
	}
	for event := range events {
		if !seen[event] {
			w.Errorf("%s was accepted, and has no delivery to %s of %s", event, path, tenant)
		}
	}
}

// checkOrder holds the first successes at the ordered endpoints against the order in which each publisher published.
func (w *world) checkOrder() {
	w.partner.mu.Lock()
	defer w.partner.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	for tenant, order := range w.partner.order {
		last := map[int]int{}
		for _, event := range order {
			f := w.fates[event]
			if f == nil || f.publisher < 0 {
				continue
			}
			if was, ok := last[f.publisher]; ok && f.number < was {
				w.Errorf("ordered endpoint of %s: %s came after number %d of the same publisher", tenant, event, was)
			}
			last[f.publisher] = f.number
		}
	}
}

// lastGroup is how long before an interruption an attempt may have ended and still be made again: the time in which outcomes are
// gathered for one sync, and what two busy cores may add to it.
const lastGroup = 3 * time.Second

// checkDuplicates allows a delivery to come again after a success only where that success was in flight, or just over, when something was
// interrupted.
func (w *world) checkDuplicates() (duplicates int) {
	w.partner.mu.Lock()
	defer w.partner.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(w.partner.receipts)) {
		var ends []receipt
		for _, r := range w.partner.receipts[id] {
			if r.ok {
				ends = append(ends, r)
			}
		}
		for i := 1; i < len(ends); i++ {
			duplicates++
			if !slices.ContainsFunc(w.breaks, func(b interruption) bool {
				return ends[i-1].answered.After(b.from.Add(-lastGroup)) && ends[i-1].arrived.Before(b.to)
			}) {
				w.Errorf("%s to %s came twice with nothing interrupted in between: %v and %v", ends[i].event, ends[i].path,
					ends[i-1].answered.Format(time.StampMilli), ends[i].arrived.Format(time.StampMilli))
			}
		}
	}
	return duplicates
}
