package demo

import (
	"context"
	"io"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/app"
	"github.com/sealpost/sealpost/store"
)

func options(t *testing.T) Options {
	return Options{Progress: io.Discard, App: app.Options{
		Data: t.TempDir(), Version: "test",
		OpenView: func(ctx context.Context, url string, log *slog.Logger) (relay.Ledger, error) {
			return store.Open(ctx, url, store.Options{Logger: log})
		},
	}}
}

func TestDemo(t *testing.T) {
	t.Parallel()
	r, err := Run(t.Context(), options(t))
	if err != nil {
		t.Fatal(err)
	}
	if !r.OK() {
		t.Fatalf("%q", r.Problems)
	}
	if r.Published < 200 || r.Repeats != repeats || r.Matched >= r.Published || r.Chunks < 4 || r.Chunked < 2 || r.Retries == 0 || r.Twice != 0 ||
		r.Redacted == 0 || r.P50 <= 0 || r.P99 < r.P50 {
		t.Errorf("%+v", r)
	}
	var table strings.Builder
	if err := r.Table(&table); err != nil || strings.Count(table.String(), "\n") != 11 {
		t.Error(err, table.String())
	}
}

// TestDemoFails gives the demo partners about whom what is expected and what was registered differ, one way at a time: it has to find out.
func TestDemoFails(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func([]partner)
		want   string
	}{
		{"a policy that forgets a field", func(p []partner) { p[0].rules.drop = []string{"ssn", "notes", "date_of_birth"} }, "requests held a sensitive value"},
		{"a partner without a policy", func(p []partner) { p[4].rules = rules{drop: []string{"nothing"}} }, "it holds a sensitive value"},
		{"an event that should not come", func(p []partner) {
			wants := p[3].wants
			p[3].wants = func(e event) bool { return e.ID != "evt_0001" && wants(e) }
		}, `the API lists a delivery of event evt_0001 to "warehouse", DELIVERED, that should not be`},
		{"an event that does not come", func(p []partner) { p[1].filter = `event.data.invoice.currency == 'USD'` }, "billing did not get event"},
		{"a partner that stays down", func(p []partner) { p[2].failFirst = 1 << 20 }, "support-desk did not get event"},
		{"bodies that are not paged as agreed", func(p []partner) { p[0].chunk = 8 << 20 }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			some := partners()
			c.change(some)
			r, err := run(t.Context(), options(t), some, 3*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if c.want == "" {
				if !r.OK() || r.Chunked != 1 {
					t.Errorf("%d chunked, %q", r.Chunked, r.Problems)
				}
				return
			}
			if r.OK() || !strings.Contains(strings.Join(r.Problems, "\n"), c.want) {
				t.Errorf("%q, without %q", r.Problems, c.want)
			}
			for _, secret := range leaked(t) {
				if strings.Contains(strings.Join(r.Problems, "\n"), secret) {
					t.Fatal("a problem repeats a sensitive value")
				}
			}
		})
	}
}

func leaked(t *testing.T) []string {
	events, err := readEvents(eventsFile)
	if err != nil {
		t.Fatal(err)
	}
	return secrets(events)
}

func TestFinder(t *testing.T) {
	t.Parallel()
	f, err := newFinder([]string{"ada@mail.example", "ada@mail.other", "+1 201 555 0100", "Zoë says hello"})
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		"": false, "ada@mail": false, `{"a":"x ada@mail.other y"}`: true, `{"a":"ada@mail.exampl"}`: false,
		`{"a":["\u002b1 201 555 0100"]}`: true, `{"Zo\u00eb says hello":1}`: true, "ada@mail.example": true,
	} {
		if got := f.inJSON([]byte(text)); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
	if _, err := newFinder([]string{"short"}); err == nil {
		t.Error("a value too short to look for is taken")
	}
}

func TestExpectation(t *testing.T) {
	t.Parallel()
	doc, err := object([]byte(`{"contact":{"id":"1","email":"a@b.example","ssn":"9","tags":["x"]},"rows":[{"id":2,"ssn":"8"},{"ssn":"7"}],"n":1.50}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		rules rules
		want  string
		n     int
	}{
		{rules{drop: []string{"ssn"}, mask: map[string]int{"email": 3}}, `{"contact":{"id":"1","email":"********ple","tags":["x"]},"rows":[{"id":2},{}],"n":1.50}`, 4},
		{rules{allow: []string{"contact.id", "rows[*].id"}}, `{"contact":{"id":"1"},"rows":[{"id":2}]}`, 6},
		{rules{allow: []string{"contact"}}, `{"contact":{"id":"1","email":"a@b.example","ssn":"9","tags":["x"]}}`, 2},
		{rules{allow: []string{"nothing.here"}}, `{}`, 3},
	} {
		want, err := object([]byte(c.want))
		if err != nil {
			t.Fatal(err)
		}
		got, n := c.rules.redacted(doc)
		if !reflect.DeepEqual(got, want) || n != c.n {
			t.Errorf("%v: %v and %d, not %v and %d", c.rules, got, n, want, c.n)
		}
		if d := (&pseudonyms{}).differs(want, got, ""); d != "" {
			t.Error(d)
		}
	}
}

func TestObject(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		`{"a":1}`: true, ` {} `: true, `{} x`: false, `{}{}`: false, `{"a":1,"a":2}`: false, "{\"a\":\"\xff\"}": false, `[]`: false, ``: false,
	} {
		if _, err := object([]byte(text)); (err == nil) != want {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestPseudonyms(t *testing.T) {
	t.Parallel()
	p := &pseudonyms{map[string]string{}, map[string]string{}}
	const one, two = "psn_00112233445566778899aabbccddeeff", "psn_ffeeddccbbaa99887766554433221100"
	for _, c := range []struct {
		value, got string
		want       bool
	}{
		{"ada", one, true}, {"ada", one, true}, {"bob", one, false}, {"zoë", two, true}, {"zoë", one, false}, {"max", "max", false},
		{"psn_x", "psn_x", false}, {"ffee", "psn_00ffee33445566778899aabbccddeeff", false},
	} {
		if got := p.match(c.value, c.got); got != c.want {
			t.Errorf("%s for %s: %v", c.got, c.value, got)
		}
	}
}
