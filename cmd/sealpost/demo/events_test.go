package demo

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write events.ndjson anew")

func TestEventsFile(t *testing.T) {
	t.Parallel()
	want := generate()
	if *update {
		if err := os.WriteFile("events.ndjson", want, 0o644); err != nil {
			t.Fatal(err)
		}
	} else if !bytes.Equal(eventsFile, want) {
		t.Fatal("events.ndjson is not what this test makes: go test ./cmd/sealpost/demo -run TestEventsFile -update")
	}
	events, err := readEvents(want)
	if err != nil {
		t.Fatal(err)
	}
	types, ids, large := map[string]bool{}, map[string]bool{}, 0
	for _, e := range events {
		types[e.Type] = true
		ids[e.ID] = true
		if len(e.Data) > 128<<10 {
			large++
		}
	}
	if len(events) < 200 || len(types) < 8 || len(ids) != len(events) || large != 1 || len(want) > 600<<10 {
		t.Errorf("%d events, %d types, %d ids, %d large, %d bytes", len(events), len(types), len(ids), large, len(want))
	}
	values := secrets(events)
	if len(values) < 1000 {
		t.Errorf("only %d sensitive values", len(values))
	}
	for _, v := range values {
		if len(v) < minSecret {
			t.Errorf("the sensitive value %q is too short to be told from chance", v)
		}
	}
}

// maker makes up a CRM's people, and what happens to them, the same each time.
type maker struct {
	*rand.Rand
	out  bytes.Buffer
	n    int
	time time.Time
}

func generate() []byte {
	m := &maker{Rand: rand.New(rand.NewPCG(20260102, 7780)), time: time.Date(2026, 1, 2, 8, 0, 0, 0, time.UTC)}
	for i := range 48 {
		m.contact("contact.created", i)
		if i%3 == 0 {
			m.company([]string{"company.created", "company.updated"}[i%2], i)
		}
		m.deal([]string{"deal.created", "deal.stage_changed", "deal.won", "deal.lost"}[i%4], i)
		m.ticket([]string{"ticket.opened", "ticket.closed"}[i%2], i)
		m.invoice([]string{"invoice.issued", "invoice.paid"}[i%2], i)
		if i%2 == 0 {
			m.contact("contact.updated", i)
		}
		if i == 30 {
			m.export()
		}
	}
	return m.out.Bytes()
}

func pick[T any](m *maker, of ...T) T { return of[m.IntN(len(of))] }

// fields keep their order in the file.
type field struct {
	name  string
	value any
}

type fields []field

// MarshalJSON writes an object in the order of its fields.
func (f fields) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, one := range f {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%q:", one.name)
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if err := e.Encode(one.value); err != nil {
			return nil, err
		}
		b.Truncate(b.Len() - 1)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

func (m *maker) event(kind, subject string, data fields) {
	m.n++
	m.time = m.time.Add(time.Duration(1+m.IntN(900)) * time.Second)
	line, err := fields{
		{"id", fmt.Sprintf("evt_%04d", m.n)}, {"type", kind}, {"time", m.time.Format(time.RFC3339)}, {"subject", subject}, {"data", data},
	}.MarshalJSON()
	if err != nil {
		panic(err)
	}
	m.out.Write(append(line, '\n'))
}

// person is somebody who does not exist: the domains are reserved (RFC 2606), the numbers are of ranges kept for fiction and tests.
type person struct{ id, first, last, email, phone, country string }

func (m *maker) person(n int) person {
	first := pick(m, "Ada", "Zoë", "Łukasz", "María", "Noor", "Søren", "Mei", "Jürgen", "Aoife", "Dmitri", "Chloé", "Kofi", "Priya", "Tomás")
	last := pick(m, "Okafor", "Müller", "García", "O’Neill", "Nowak", "Ångström", "Tanaka", "D'Angelo", "Petrović", "Smith-Jones", "Nguyễn")
	ascii := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' {
			return r
		}
		return -1
	}, strings.ToLower(first+last))
	return person{
		id: fmt.Sprint(1000 + n), first: first, last: last,
		email:   fmt.Sprintf("%s.%d@%s", ascii, 1000+n, pick(m, "mail.example", "post.example.org", "corp.example.com")),
		phone:   fmt.Sprintf("+1 %d 555 01%02d x%04d", 201+m.IntN(700), m.IntN(100), n),
		country: pick(m, "DE", "FR", "US", "GB", "PL", "IE", "JP"),
	}
}

func (m *maker) ssn(n int) string {
	return fmt.Sprintf("9%02d-%02d-%04d", m.IntN(100), 10+m.IntN(60), n)
}

func (m *maker) day(from, years int) string {
	return time.Date(from+m.IntN(years), time.Month(1+m.IntN(12)), 1+m.IntN(28), 0, 0, 0, 0, time.UTC).Format(time.DateOnly)
}

func (m *maker) address(country string) fields {
	return fields{
		{"street", fmt.Sprintf("%d %s", 100+m.IntN(900), pick(m, "Lindenstraße", "Rue de l’Exemple", "Sample Avenue", "Calle Ficticia"))},
		{"city", pick(m, "Berlin", "Lyon", "Springfield", "Kraków", "Dublin", "Osaka")},
		{"postal_code", fmt.Sprintf("%05d", m.IntN(100000))},
		{"country", country},
	}
}

func (m *maker) contact(kind string, n int) {
	p := m.person(n)
	data := fields{{"contact", fields{
		{"id", p.id}, {"first_name", p.first}, {"last_name", p.last}, {"email", p.email}, {"phone", p.phone},
		{"date_of_birth", m.day(1950, 50)}, {"ssn", m.ssn(n)}, {"address", m.address(p.country)},
		{"lifecycle_stage", pick(m, "lead", "customer", "evangelist", "churned")}, {"score", m.Float64() * 100},
		{"consent", fields{{"marketing", m.IntN(2) == 0}, {"updated", m.time.Format(time.RFC3339)}}},
		{"custom", fields{
			{"loyalty_tier", pick[any](m, "gold", "silver", nil)},
			{"notes", fmt.Sprintf("Prefers a call on %s; second address %s", p.phone, p.email)},
		}},
	}}}
	if kind == "contact.updated" {
		data = append(data, field{"changed", []string{"lifecycle_stage", "email"}})
	}
	m.event(kind, "contact/"+p.id, data)
}

func (m *maker) iban(n int) string {
	return fmt.Sprintf("DE%02d5001051754%08d", 10+m.IntN(89), 33120000+n*97+m.IntN(90))
}

func (m *maker) companyRef(n int) fields {
	return fields{{"id", fmt.Sprint(500 + n%16)}, {"name", pick(m, "Globex", "Initech", "Umbrella", "Hooli", "Soylent", "Vandelay") + " " + pick(m, "GmbH", "Ltd", "SA", "K.K.")}}
}

func (m *maker) company(kind string, n int) {
	p := m.person(2000 + n)
	ref := m.companyRef(n)
	m.event(kind, fmt.Sprintf("company/%s", ref[0].value), fields{{"company", append(ref,
		field{"domain", fmt.Sprintf("c%d.example", n)}, field{"industry", pick(m, "software", "retail", "energy", "health")},
		field{"employees", 10 + m.IntN(5000)}, field{"billing", fields{{"iban", m.iban(n)}, {"email", p.email}, {"terms_days", pick(m, 14, 30, 60)}}},
		field{"address", m.address(p.country)},
	)}})
}

func (m *maker) deal(kind string, n int) {
	p, q := m.person(n), m.person(n+1)
	m.event(kind, fmt.Sprintf("deal/%d", 7000+n), fields{
		{"deal", fields{
			{"id", fmt.Sprint(7000 + n)}, {"name", fmt.Sprintf("%d seats", 5+m.IntN(500))}, {"amount", 500 + m.IntN(60000)},
			{"currency", pick(m, "EUR", "USD", "GBP")}, {"stage", pick(m, "qualified", "proposal", "negotiation", "closed")},
			{"probability", float64(m.IntN(100)) / 100}, {"close_date", m.day(2026, 2)},
		}},
		{"company", m.companyRef(n)},
		{"contacts", []any{
			fields{{"id", p.id}, {"first_name", p.first}, {"last_name", p.last}, {"email", p.email}, {"role", "buyer"}},
			fields{{"id", q.id}, {"first_name", q.first}, {"last_name", q.last}, {"email", q.email}, {"role", "champion"}},
		}},
	})
}

func (m *maker) ticket(kind string, n int) {
	p := m.person(n)
	m.event(kind, fmt.Sprintf("ticket/%d", 3000+n), fields{
		{"ticket", fields{
			{"id", fmt.Sprint(3000 + n)}, {"priority", pick(m, "low", "normal", "high", "urgent", "high")},
			{"status", strings.TrimPrefix(kind, "ticket.")}, {"channel", pick(m, "mail", "chat", "phone")}, {"tags", []string{"billing", "vip"}[:m.IntN(3)]},
		}},
		{"requester", fields{{"id", p.id}, {"email", p.email}, {"phone", p.phone}}},
		{"messages", []any{
			fields{{"at", m.time.Format(time.RFC3339)}, {"from", "requester"},
				{"body", fmt.Sprintf("Hello, this is %s %s (%s).\nMy card ending in %04d was charged twice — \"please\" call %s.", p.first, p.last, p.email, m.IntN(10000), p.phone)}},
			fields{{"at", m.time.Add(time.Minute).Format(time.RFC3339)}, {"from", "agent"}, {"body", "We wrote to " + p.email + " about it."}},
		}},
	})
}

func (m *maker) invoice(kind string, n int) {
	p := m.person(n)
	net := 1000 + m.IntN(900000)
	payment := fields{{"method", "card"}, {"card_number", fmt.Sprintf("4000 00%02d %04d %04d", m.IntN(100), m.IntN(10000), n*131%10000)}, {"card_expiry", "11/29"}}
	if n%3 == 0 {
		payment = fields{{"method", "transfer"}, {"iban", m.iban(5000 + n)}}
	}
	m.event(kind, fmt.Sprintf("invoice/%d", 9000+n), fields{
		{"invoice", fields{
			{"id", fmt.Sprint(9000 + n)}, {"number", fmt.Sprintf("R-2026-%04d", n)}, {"currency", pick(m, "EUR", "EUR", "USD")},
			{"total", json.Number(fmt.Sprintf("%d.%02d", net/100, net%100))}, {"tax", json.Number(fmt.Sprintf("%d.%02d", net*19/10000, net*19/100%100))},
			{"due_date", m.day(2026, 1)},
			{"lines", []any{
				fields{{"sku", fmt.Sprintf("SKU-%d", m.IntN(50))}, {"quantity", 1 + m.IntN(9)}, {"price", json.Number("19.90")}},
				fields{{"sku", "SUPPORT"}, {"quantity", 1}, {"price", json.Number("1E2")}},
			}},
		}},
		{"company", m.companyRef(n)},
		{"bill_to", fields{{"name", p.first + " " + p.last}, {"email", p.email}, {"address", m.address(p.country)}}},
		{"payment", payment},
	})
}

// export is the one event that is too large for one push.
func (m *maker) export() {
	const count = 1200
	contacts := make([]any, count)
	for i := range contacts {
		p := m.person(10000 + i)
		contacts[i] = fields{
			{"id", p.id}, {"first_name", p.first}, {"last_name", p.last}, {"email", p.email}, {"phone", p.phone},
			{"ssn", m.ssn(1000 + i)}, {"country", p.country}, {"lifecycle_stage", pick(m, "lead", "customer")},
		}
	}
	m.event("export.completed", "export/77", fields{{"export", fields{{"id", "77"}, {"object", "contact"}, {"count", count}}}, {"contacts", contacts}})
}
