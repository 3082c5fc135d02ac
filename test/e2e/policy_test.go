package e2e_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/sealpost/sealpost/test/rig"
)

const person = `{"contact":{"email":"ann@example.com","name":"Ann","ssn":"078-05-1120","country":"DE"},"cards":[{"card_number":"4111111111111111"},{"card_number":"5500005555555559","ssn":"1"}],"note":"x","amount":12345678901234567890.10}`

// TestPolicies delivers one event under policies of each kind and compares what left, byte for byte.
func TestPolicies(t *testing.T) {
	t.Parallel()
	p := start(t)
	for name, c := range map[string]struct {
		policy rig.Object
		want   string // HASH stands for a pseudonym
		subj   string
	}{
		"none": {rig.Object{"mode": "NONE"}, person, "contact/42"},
		"deny": {rig.Object{"mode": "DENY_LISTED", "drop": []string{"**.ssn", "note"}, "mask": []rig.Object{{"path": "**.card_number", "keepLast": 4}}, "pseudonymize": []string{"contact.email"}},
			`{"contact":{"email":"HASH","name":"Ann","country":"DE"},"cards":[{"card_number":"************1111"},{"card_number":"************5559"}],"amount":12345678901234567890.10}`, "contact/42"},
		"allow":          {rig.Object{"mode": "ALLOW_LISTED", "allow": []string{"contact.country", "amount"}}, `{"contact":{"country":"DE"},"amount":12345678901234567890.10}`, ""},
		"allow elements": {rig.Object{"mode": "ALLOW_LISTED", "allow": []string{"cards.*.ssn", "$subject"}}, `{"cards":[{"ssn":"1"}]}`, "contact/42"},
		"drop subject":   {rig.Object{"mode": "DENY_LISTED", "drop": []string{"$subject", "cards", "contact"}}, `{"note":"x","amount":12345678901234567890.10}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := p.In(t)
			tenant := "p-" + strings.ReplaceAll(name, " ", "-")
			partner := rig.NewPartner(t, nil, nil)
			ep := p.Register(partner.URL, rig.Object{"tenant": tenant, "redaction": c.policy})
			for _, id := range []string{"e1", "e2"} {
				e := rig.Event(id, person)
				e["tenant"] = tenant
				p.Publish(e)
			}
			pseudonyms := map[string]bool{}
			for _, r := range partner.Await(t, 2) {
				var body struct {
					Subject string          `json:"subject"`
					Data    json.RawMessage `json:"data"`
				}
				if err := json.Unmarshal(r.Body, &body); err != nil {
					t.Fatal(err)
				}
				got := string(body.Data)
				if prefix, rest, found := strings.Cut(c.want, "HASH"); found {
					hash, _, ok := strings.Cut(strings.TrimPrefix(got, prefix), `"`)
					if !strings.HasPrefix(got, prefix) || !ok || len(hash) < 16 || prefix+hash+rest != got {
						t.Errorf("left\n%s\nwant\n%s", got, c.want)
					}
					pseudonyms[hash] = true
				} else if got != c.want {
					t.Errorf("left\n%s\nwant\n%s", got, c.want)
				}
				if body.Subject != c.subj {
					t.Errorf("subject %q, want %q", body.Subject, c.subj)
				}
			}
			if len(pseudonyms) > 1 {
				t.Errorf("one value has pseudonyms %v in one tenant", pseudonyms)
			}
			if d := p.AwaitDelivery(ep, "e1", "DELIVERED"); (name != "none") != (d.N("redactedCount") > 0) {
				t.Errorf("redactedCount %d", d.N("redactedCount"))
			}
		})
	}
}

// TestFilters matches by type patterns and by filters over what would leave; a filter that fails withholds and sends nothing.
func TestFilters(t *testing.T) {
	t.Parallel()
	eachView(t, func(t *testing.T, view rig.Config) {
		p := start(t, view)
		type target struct {
			ep      rig.Endpoint
			partner *rig.Partner
		}
		register := func(more rig.Object) target {
			partner := rig.NewPartner(t, nil, nil)
			return target{p.Register(partner.URL, more), partner}
		}
		exact := register(rig.Object{"eventTypes": []string{"contact.created"}})
		wild := register(rig.Object{"eventTypes": []string{"contact.*"}})
		german := register(rig.Object{"filter": "event.data.country == 'DE'"})
		// A field that was removed is absent for the filter too.
		blind := register(rig.Object{"filter": "has(event.data.country)", "redaction": rig.Object{"mode": "DENY_LISTED", "drop": []string{"country"}}})
		failing := register(rig.Object{"filter": "event.data.amount > 10"})

		publish := func(id, typ, data string) {
			e := rig.Event(id, data)
			e["type"] = typ
			p.Publish(e)
		}
		publish("de", "contact.updated", `{"country":"DE","amount":11}`)
		publish("fr", "contact.updated", `{"country":"FR","amount":9}`)
		publish("new", "contact.created", `{"country":"DE","amount":"many"}`)
		publish("deep", "contact.card.added", `{"country":"IT","amount":11}`)
		publish("deal", "deal.won", `{"country":"DE","amount":11}`)
		publish("exactly", "contact", `{"country":"DE","amount":11}`)

		want := func(name string, x target, ids ...string) {
			t.Helper()
			list := p.AwaitCount("tenant=acme&state=DELIVERED&endpointId="+x.ep.ID, len(ids))
			for _, d := range list {
				if !strings.Contains(" "+strings.Join(ids, " ")+" ", " "+d.S("eventId")+" ") {
					t.Errorf("%s got %s", name, d.S("eventId"))
				}
			}
		}
		want("contact.created", exact, "new")
		want("contact.*", wild, "de", "fr", "new", "deep")
		want("country == DE", german, "de", "new")
		want("amount > 10", failing, "de", "deep")
		want("has(country), dropped", blind)
		withheld := p.AwaitDelivery(failing.ep, "new", "WITHHELD")
		if withheld.S("reason") != "FILTER_FAILED" || len(withheld.L("attempts")) != 0 {
			t.Errorf("a delivery whose filter fails: %v", withheld)
		}
		rig.Eventually(t, "unmatched events are recorded", func() bool {
			a := p.Do("GET", "/v1/events/deal?tenant=acme", nil)
			return a.Status == http.StatusOK && a.Object["matched"] == false
		})
		if got := p.OK("GET", "/v1/events/de?tenant=acme", nil); got["matched"] != true {
			t.Errorf("a matched event: %v", got)
		}
		if n := blind.partner.Count(); n != 0 {
			t.Errorf("the endpoint whose filter sees nothing got %d", n)
		}
		if list := p.Deliveries("tenant=acme&eventId=deal"); len(list) != 0 {
			t.Errorf("an unmatched event has deliveries: %v", list)
		}
		for query, n := range map[string]int{
			"tenant=acme&eventType=contact.updated&endpointId=" + wild.ep.ID: 2,
			"tenant=acme&eventType=contact.*&endpointId=" + wild.ep.ID:       4,
			"tenant=acme&eventId=de":     3,
			"tenant=acme&state=WITHHELD": 1,
			"tenant=acme&endpointId=" + wild.ep.ID + "&after=2100-01-01T00:00:00Z":  0,
			"tenant=acme&endpointId=" + wild.ep.ID + "&before=2100-01-01T00:00:00Z": 4,
		} {
			if got := len(p.Deliveries(query)); got != n {
				t.Errorf("%s: %d, want %d", query, got, n)
			}
		}
	})
}

// TestPaging reads page by page while new deliveries arrive: none is missed and none comes twice.
func TestPaging(t *testing.T) {
	t.Parallel()
	eachView(t, func(t *testing.T, view rig.Config) {
		p := start(t, view)
		partner := rig.NewPartner(t, nil, nil)
		p.Register(partner.URL, nil)
		old := map[string]bool{}
		for _, id := range p.PublishMany("acme", "old", 150) {
			old[id] = true
		}
		p.AwaitCount("tenant=acme&state=DELIVERED", len(old))
		seen := map[string]int{}
		for token, page := "", 0; ; page++ {
			p.PublishMany("acme", fmt.Sprintf("new%d", page), 7)
			a := p.OK("GET", "/v1/deliveries?tenant=acme&pageSize=20&pageToken="+token, nil)
			for _, d := range a.L("deliveries") {
				seen[d.S("id")]++
				delete(old, d.S("eventId"))
			}
			if token = a.S("nextPageToken"); token == "" {
				break
			}
		}
		if len(old) > 0 {
			t.Errorf("%d deliveries were missed", len(old))
		}
		for id, n := range seen {
			if n > 1 {
				t.Errorf("%s was listed %d times", id, n)
			}
		}
		if a := p.Do("GET", "/v1/deliveries?tenant=acme&pageToken=nonsense", nil); a.Status != http.StatusBadRequest {
			t.Errorf("a page token of nobody's: %d %s", a.Status, a.Raw)
		}
	})
}

// TestNothingSensitiveIsWritten seeds values that can be recognised and looks for them in all that the process says.
func TestNothingSensitiveIsWritten(t *testing.T) {
	t.Parallel()
	p := start(t)
	partner := rig.NewPartner(t, nil, rig.Unavailable(2))
	secrets := map[string]string{
		"payload": "PAYLOAD-7d1f", "member name": "MEMBER-91ac", "subject": "subject-5e2b", "header": "HEADER-77aa", "bearer": "BEARER-31cc",
		"operator token": p.Token, "failing payload": "FAILING-11dd", "refused payload": "REFUSED-22ee", "refused key": "WRONGKEY-33ff", "guessed token": "spt_GUESS-44aa",
	}
	ep := p.Register(partner.URL, rig.Object{"headers": []rig.Object{{"name": "X-Key", "value": secrets["header"]}}, "bearerToken": secrets["bearer"],
		"redaction": rig.Object{"mode": "DENY_LISTED", "drop": []string{"gone"}}})
	secrets["signing secret"] = ep.Secret
	failing := p.Register(partner.URL, rig.Object{"filter": "event.data.n > 1"})
	e := rig.Event("e1", `{"`+secrets["member name"]+`":"`+secrets["payload"]+`","gone":"`+secrets["payload"]+`","n":5}`)
	e["subject"] = secrets["subject"]
	p.Publish(e)
	p.AwaitDelivery(ep, "e1", "DELIVERED")
	p.Publish(rig.Event("e2", `{"n":"`+secrets["failing payload"]+`"}`))
	p.AwaitDelivery(failing, "e2", "WITHHELD")
	p.Do("POST", "/v1/events", `{"tenant":"acme","type":"contact.updated","data":{"`+secrets["refused payload"]+`":1,"`+secrets["refused payload"]+`":2}}`)
	p.Do("POST", "/v1/events", `{"tenant":"acme","type":"contact.updated","data":`+secrets["refused payload"]+`}`)
	p.Do("POST", "/v1/endpoints", rig.Object{"tenant": "acme", "url": partner.URL, "owner": "o", "eventTypes": []string{"*"}, "secret": secrets["refused key"]})
	p.Do("POST", "/v1/endpoints", rig.Object{"tenant": "acme", "url": "https://user:" + secrets["refused key"] + "@example.com/", "owner": "o", "eventTypes": []string{"*"}})
	p.As(secrets["guessed token"]).Do("GET", "/v1/endpoints", nil)
	token := p.OK("POST", "/v1/tokens", rig.Object{"account": "crm", "role": "PUBLISHER", "tenant": "acme"})
	secrets["publisher token"] = token.S("secret")
	p.As(token.S("secret")).Publish(rig.Event("e3", `{"n":2}`))
	metrics, err := p.Metrics()
	if err != nil {
		t.Fatal(err)
	}
	p.Stop()
	said := p.Output()
	for what, value := range secrets {
		if value == "" {
			t.Fatalf("no %s", what)
		}
		if strings.Contains(said, value) {
			t.Errorf("the process wrote the %s", what)
		}
		if strings.Contains(metrics, value) {
			t.Errorf("the metrics hold the %s", what)
		}
	}
	for what, value := range map[string]string{"signing secret": ep.Secret, "header": secrets["header"], "bearer": secrets["bearer"], "publisher token": token.S("secret")} {
		for file, content := range files(t, p.Data) {
			if bytes.Contains(content, []byte(value)) {
				t.Errorf("%s holds the %s in the clear", file, what)
			}
		}
	}
}
