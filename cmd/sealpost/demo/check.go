package demo

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay/chunk"
)

// settleWithin is how long the API's view may take to show what the partners have.
const settleWithin = 5 * time.Second

// check holds what came against what should have, and the API's account against both.
func (d *stage) check(ctx context.Context) error {
	deliveries, err := d.listed(ctx)
	if err != nil {
		return err
	}
	wanted, _ := d.expected()
	d.server.mu.Lock()
	receipts := append([]receipt(nil), d.server.receipts...)
	d.server.mu.Unlock()

	d.checkListed(deliveries, wanted)
	if err := d.checkAttempts(ctx, deliveries); err != nil {
		return err
	}
	if err := d.checkMatched(ctx, wanted); err != nil {
		return err
	}
	d.checkReceipts(deliveries, wanted, receipts)
	d.checkOrder(wanted, deliveries, receipts)
	d.checkServer()
	return nil
}

// listed is every delivery of the tenant by its id, once the view shows as many settled as there should be, or has had its time.
func (d *stage) listed(ctx context.Context) (map[string]*sealpostv1.Delivery, error) {
	deadline := time.Now().Add(settleWithin)
	for {
		out, settled := map[string]*sealpostv1.Delivery{}, 0
		for token, more := "", true; more; {
			page, err := sealpostv1.NewDeliveryServiceClient(d.client.Conn()).ListDeliveries(ctx,
				&sealpostv1.ListDeliveriesRequest{Tenant: Tenant, PageSize: 200, PageToken: token})
			if err != nil {
				return nil, fmt.Errorf("list deliveries: %w", err)
			}
			for _, one := range page.GetDeliveries() {
				out[one.GetId()] = one
				if one.GetState() == sealpostv1.Delivery_DELIVERED {
					settled++
				}
			}
			token, more = page.GetNextPageToken(), page.GetNextPageToken() != ""
		}
		if settled >= d.report.Expected || time.Now().After(deadline) {
			return out, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// pair is an event on its way to a partner.
type pair struct{ partner, event string }

// checkListed: the API lists what the file calls for, delivered, and nothing else.
func (d *stage) checkListed(deliveries map[string]*sealpostv1.Delivery, wanted map[string][]event) {
	should := map[pair]bool{}
	for name, events := range wanted {
		for _, e := range events {
			should[pair{name, e.ID}] = true
		}
	}
	for _, one := range deliveries {
		p := pair{d.ids[one.GetEndpointId()], one.GetEventId()}
		switch {
		case !should[p]:
			d.report.problem("the API lists a delivery of event %s to %q, %s, that should not be", p.event, p.partner, one.GetState())
		case one.GetState() != sealpostv1.Delivery_DELIVERED:
			d.report.problem("the API says that event %s is %s at %s: %s", p.event, one.GetState(), p.partner, one.GetReason())
		default:
			d.report.Delivered++
		}
		delete(should, p)
	}
	for p := range should {
		d.report.problem("the API lists no delivery of event %s to %s", p.event, p.partner)
	}
}

// checkAttempts: each attempt ran over TLS 1.3 with our certificate, and there are as many as the partners had requests.
func (d *stage) checkAttempts(ctx context.Context, deliveries map[string]*sealpostv1.Delivery) error {
	for id := range deliveries {
		one, err := sealpostv1.NewDeliveryServiceClient(d.client.Conn()).GetDelivery(ctx, &sealpostv1.GetDeliveryRequest{Id: id, Tenant: Tenant})
		if err != nil {
			return fmt.Errorf("get delivery %s: %w", id, err)
		}
		d.report.attempts += int(one.GetAttemptCount())
		if len(one.GetAttempts()) != int(one.GetAttemptCount()) {
			d.report.problem("delivery %s has %d attempts and tells of %d", id, one.GetAttemptCount(), len(one.GetAttempts()))
		}
		for _, a := range one.GetAttempts() {
			if a.GetVerdict() != sealpostv1.Attempt_DONE {
				d.report.Retries++
			}
			if a.GetTlsVersion() != tlsVersion || a.GetClientCertificateSha256() == "" || a.GetServerCertificateSha256() == "" {
				d.report.problem("attempt %d of delivery %s was not recorded as mutual TLS 1.3", a.GetNumber(), id)
			}
		}
	}
	return nil
}

// checkMatched: the API tells of each event whether anybody was to have it.
func (d *stage) checkMatched(ctx context.Context, wanted map[string][]event) error {
	matched := map[string]bool{}
	for _, events := range wanted {
		for _, e := range events {
			matched[e.ID] = true
		}
	}
	d.report.Matched = len(matched)
	for _, e := range d.events {
		kept, err := sealpostv1.NewEventServiceClient(d.client.Conn()).GetEvent(ctx, &sealpostv1.GetEventRequest{Tenant: Tenant, Id: e.ID})
		if err != nil {
			return fmt.Errorf("get event %s: %w", e.ID, err)
		}
		if kept.Matched == nil || kept.GetMatched() != matched[e.ID] {
			d.report.problem("the API says of event %s that matched is %v", e.ID, kept.GetMatched())
		}
		if string(kept.GetData()) != string(e.Data) {
			d.report.problem("event %s was not kept as it was published", e.ID)
		}
	}
	return nil
}

// checkReceipts: each partner got each event once, with what policy leaves of it and nothing more.
func (d *stage) checkReceipts(deliveries map[string]*sealpostv1.Delivery, wanted map[string][]event, receipts []receipt) {
	events := map[pair]event{}
	for name, some := range wanted {
		for _, e := range some {
			events[pair{name, e.ID}] = e
		}
	}
	known := &pseudonyms{map[string]string{}, map[string]string{}}
	for _, r := range receipts {
		listed := deliveries[r.ID]
		if listed == nil {
			d.report.problem("%s got delivery %s, which the API does not know", r.partner, r.ID)
			continue
		}
		p := pair{r.partner, listed.GetEventId()}
		e, ok := events[p]
		if !ok {
			d.report.problem("%s got event %s, which it should not have, or had already", p.partner, p.event)
			continue
		}
		delete(events, p)
		if problem := d.checkReceipt(r, e, listed, known); problem != "" {
			d.report.problem("event %s at %s: %s", p.event, p.partner, problem)
			continue
		}
		d.report.Verified++
		d.report.latencies = append(d.report.latencies, r.at.Sub(d.accepted[e.ID]))
	}
	for p := range events {
		d.report.problem("%s did not get event %s", p.partner, p.event)
	}
}

// checkReceipt says what is wrong with one delivery, or "".
func (d *stage) checkReceipt(r receipt, e event, listed *sealpostv1.Delivery, known *pseudonyms) string {
	if d.ids[listed.GetEndpointId()] != r.partner {
		return "it came under the delivery of another endpoint"
	}
	if d.leak.inJSON(r.Body) {
		return "it holds a sensitive value"
	}
	p := d.partnerOf(r.partner)
	got, err := object(r.Body)
	if err != nil {
		return "it is not a JSON object"
	}
	data, n := p.rules.redacted(e.doc)
	want, subject := framed(p, e, data)
	if problem := known.differs(want, got, ""); problem != "" {
		return problem
	}
	if !subject {
		n++
	}
	if int(listed.GetRedactedCount()) != n {
		return fmt.Sprintf("%d fields should have been redacted, and the API says %d", n, listed.GetRedactedCount())
	}
	d.report.Redacted += n
	return d.checkChunks(r, p, listed)
}

func (d *stage) partnerOf(name string) partner {
	for _, p := range d.partners {
		if p.name == name {
			return p
		}
	}
	return partner{}
}

// framed is the body that a partner should get, and whether the event's subject is part of it.
func framed(p partner, e event, data map[string]any) (body map[string]any, subject bool) {
	subject = len(p.rules.allow) == 0 // an allow list that does not name the subject keeps it in
	at := e.Time.UTC().Format(time.RFC3339Nano)
	switch p.content {
	case "data":
		return data, subject
	case "cloudevents":
		body = map[string]any{
			"specversion": "1.0", "id": e.ID, "source": "/tenants/" + Tenant, "type": e.Type, "time": at,
			"datacontenttype": "application/json", "data": data,
		}
	default:
		body = map[string]any{"type": e.Type, "timestamp": at, "id": e.ID, "tenant": Tenant, "data": data}
	}
	if subject {
		body["subject"] = e.Subject
	}
	return body, subject
}

// checkChunks: what is larger than the endpoint takes came in chunks, each verified, and the whole has the digest that they named.
func (d *stage) checkChunks(r receipt, p partner, listed *sealpostv1.Delivery) string {
	if large := len(r.Body) > int(p.chunk); large != (r.Chunks > 0) {
		return fmt.Sprintf("%d bytes came in %d chunks", len(r.Body), r.Chunks)
	}
	if int(listed.GetChunkCount()) != r.Chunks || int(listed.GetChunksDelivered()) != r.Chunks {
		return fmt.Sprintf("it came in %d chunks, and the API says %d of %d", r.Chunks, listed.GetChunksDelivered(), listed.GetChunkCount())
	}
	if r.Chunks == 0 {
		d.report.posts++
		return ""
	}
	h, err := chunk.ParseHeader(r.Header.Get(chunk.HeaderName))
	if err != nil || h.Total != r.Chunks || h.Set != r.ID || h.Digest != sha256.Sum256(r.Body) {
		return "its chunks do not make the whole that they name"
	}
	d.report.posts += r.Chunks
	d.report.Chunks += r.Chunks
	d.report.Chunked++
	return ""
}

// checkOrder: an ordered endpoint gets its events in the order in which they were accepted, which is the file's.
func (d *stage) checkOrder(wanted map[string][]event, deliveries map[string]*sealpostv1.Delivery, receipts []receipt) {
	for _, p := range d.partners {
		if !p.ordered {
			continue
		}
		i := 0
		for _, r := range receipts {
			if r.partner != p.name {
				continue
			}
			if i < len(wanted[p.name]) && deliveries[r.ID].GetEventId() != wanted[p.name][i].ID {
				d.report.problem("%s is an ordered endpoint and got event %s out of order", p.name, deliveries[r.ID].GetEventId())
				break
			}
			i++
		}
	}
}

// checkServer: what the partners' server saw, request by request.
func (d *stage) checkServer() {
	s := d.server
	s.mu.Lock()
	defer s.mu.Unlock()
	d.report.Problems = append(d.report.Problems, s.problems...)
	d.report.Twice = s.twice
	d.report.Leaks = s.leaksSeen
	if s.leaksSeen > 0 {
		d.report.problem("%d requests held a sensitive value", s.leaksSeen)
	}
	requests, should := 0, 0
	for _, p := range d.partners {
		requests += s.requests[p.name]
		should += p.failFirst
	}
	if s.refused != should || d.report.Retries != s.refused {
		d.report.problem("%d requests were to be refused, %d were, and the API tells of %d", should, s.refused, d.report.Retries)
	}
	if requests != d.report.posts+s.refused || requests != d.report.attempts {
		d.report.problem("the partners had %d requests for %d bodies and %d refusals; the API tells of %d attempts",
			requests, d.report.posts, s.refused, d.report.attempts)
	}
}
