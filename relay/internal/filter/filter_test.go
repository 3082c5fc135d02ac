package filter

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

var testEvent = Input{
	Tenant: "acme", ID: "evt_1", Type: "contact.updated", Subject: "contact/42",
	Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	Data: []byte(`{"country":"DE","amount":12.50,"count":9007199254740993,"tags":["vip","eu"],"owner":{"name":"Ann","level":3},"a.b":1,"none":null,"exp":1e3,"flag":true,"text":"aaaaaaaaaaaaaaaa"}`),
}

func compile(t testing.TB, src string) *Filter {
	t.Helper()
	f, err := Compile(src)
	if err != nil {
		t.Fatalf("%s: %v", src, err)
	}
	return f
}

func TestMatch(t *testing.T) {
	t.Parallel()
	c, err := NewCompiler()
	if err != nil {
		t.Fatal(err)
	}
	for src, want := range map[string]bool{
		"true":                                                             true,
		"event.data.country == 'DE'":                                       true,
		"event.data['country'] == 'FR'":                                    false,
		"event['data']['country'] == 'DE'":                                 true,
		".event.data.country == 'DE'":                                      true,
		"event.tenant == 'acme' && event.id == 'evt_1'":                    true,
		"event.type.startsWith('contact.')":                                true,
		"event.subject == 'contact/42'":                                    true,
		"has(event.subject)":                                               true,
		"has(event.data.missing)":                                          false,
		"has(event.data.country)":                                          true,
		"has(event.data)":                                                  true,
		"'country' in event.data":                                          true,
		"'missing' in event.data":                                          false,
		"has(event.data.missing) && event.data.missing > 1":                false,
		"event.data.missing == 1 || event.data.flag":                       true, // CEL: one true side is enough
		"event.data.count == 9007199254740993":                             true, // not through a double
		"event.data.count == 9007199254740992":                             false,
		"event.data.amount > 12":                                           true,
		"event.data.amount == 12.5":                                        true,
		"event.data.exp == 1000.0":                                         true,
		"type(event.data.exp) == double && type(event.data.count) == int":  true,
		"event.data.none == null":                                          true,
		"event.data.owner.level == 3":                                      true,
		"event.data['a.b'] == 1":                                           true,
		"event.data.tags.exists(t, t == 'vip')":                            true,
		"event.data.tags.all(t, t.size() < 3)":                             false,
		"size(event.data.tags) == 2":                                       true,
		"event.data.exists(k, k == 'country')":                             true,
		"[event].exists(e, e.data.country == 'DE')":                        true,
		"{'e': event}['e'].data.country == 'DE'":                           true,
		"event.data.owner == {'name': 'Ann', 'level': 3}":                  true,
		"event.time > timestamp('2026-01-01T00:00:00Z')":                   true,
		"event.time.getHours() == 3":                                       true,
		"event.data.country.matches('^[A-Z]{2}$')":                         true,
		"event.data.country.lowerAscii() == 'de'":                          true,
		"event.data.tags.exists(event, event == 'eu')":                     true,
		"[1, 2].exists(x, event.data.owner.level == x + 1)":                true,
		"event.data.owner.name.substring(0, 1) == 'A' ? true : 1 / 0 == 1": true,
	} {
		f, err := c.Compile(src)
		if err != nil {
			t.Errorf("%s: %v", src, err)
			continue
		}
		if got, err := f.Match(testEvent); err != nil || got != want {
			t.Errorf("%s: %v, %v; want %v", src, got, err, want)
		}
	}
}

func TestMatchFails(t *testing.T) {
	t.Parallel()
	big := Input{Data: []byte(`{"n":9223372036854775808,"x":1e999,"ok":1}`)}
	for _, c := range []struct {
		src   string
		event Input
		want  error
		place string
	}{
		{"event.data.missing == 1", testEvent, ErrNoSuchKey, ""},
		{"event.data.owner.missing == 1", testEvent, ErrNoSuchKey, ""},
		{"event.subject == 'x'", Input{Data: []byte(`{}`)}, ErrNoSuchKey, ""},
		{"event.data.x == 1", Input{Data: []byte(`[1]`)}, ErrEvaluation, ""},
		{"event.data.country > 1", testEvent, ErrEvaluation, ""},
		{"event.data.country || false", testEvent, ErrEvaluation, ""},
		{"timestamp(event.data.country) == event.time", testEvent, ErrEvaluation, ""},
		{"int(event.data.country) == 1", testEvent, ErrEvaluation, ""},
		{"event.data.n == 1", big, ErrInteger, ""},
		{"event.data.exists(k, k == 'n')", big, ErrInteger, ""},
		{"event.data.x == 1.0", big, ErrNumber, ""},
		{"event.data.a == 1", Input{Data: []byte(`{"a":1}{}`)}, ErrData, ""},
		{"event.data.a == 1", Input{Data: []byte(`{"a":1,"a":2}`)}, ErrData, ""},
		{"event.data.a == 1", Input{Data: []byte(`{"b":[1}`)}, ErrData, ""},
		{"event.data.a == 1", Input{Data: nil}, ErrData, ""},
		{"event.data.a == 1", Input{Data: []byte(`{"a":` + strings.Repeat("[", 300) + strings.Repeat("]", 300) + `}`)}, ErrData, ""},
	} {
		pass, err := compile(t, c.src).Match(c.event)
		if pass || !errors.Is(err, c.want) {
			t.Errorf("%s: %v, %v; want %v", c.src, pass, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "DE") {
			t.Errorf("%s: the error quotes the event: %v", c.src, err)
		}
	}
}

// A number that the filter doesn't read is none of its business.
func TestUnreadNumbersDoNotMatter(t *testing.T) {
	t.Parallel()
	in := Input{Type: "a.b", Data: []byte(`{"n":9223372036854775808,"ok":1}`)}
	for _, src := range []string{"event.data.ok == 1", "event.type == 'a.b'", "!has(event.data.other)"} {
		if pass, err := compile(t, src).Match(in); !pass || err != nil {
			t.Errorf("%s: %v, %v", src, pass, err)
		}
	}
	for _, n := range []string{"9223372036854775807", "-9223372036854775808"} {
		in.Data = []byte(`{"n":` + n + `}`)
		src := "string(event.data.n) == '" + n + "'"
		if pass, err := compile(t, src).Match(in); !pass || err != nil {
			t.Errorf("%s: %v, %v", src, pass, err)
		}
	}
}

func TestRunTimeCostIsBounded(t *testing.T) {
	t.Parallel()
	list := "[" + strings.Repeat("1,", 400_000) + "1]"
	long := strings.Repeat("a", 1<<20)
	in := Input{Data: []byte(`{"list":` + list + `,"text":"` + long + `","long":"a` + long + `"}`)}
	for _, src := range []string{
		"event.data.list.all(x, x > 0)",
		"event.data.list.exists(x, event.data.list.exists(y, y > x))",
		"event.data.list.exists(x, event.data.text.matches('^(a|aa)*(a|b)*(a|c)*x$'))",
		"event.data.long.startsWith('b')",
		"(event.data.text" + strings.Repeat(" + event.data.text", 40) + ").size() == 0",
		"event.data.list.map(x, event.data.text + event.data.text).size() == 0",
	} {
		pass, err := compile(t, src).Match(in)
		if pass || !errors.Is(err, ErrCost) {
			t.Errorf("%s: %v, %v", src, pass, err)
		}
	}
}

func TestCompileRefuses(t *testing.T) {
	t.Parallel()
	c, err := NewCompiler()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		src          string
		line, column int
		rule         string
	}{
		{"", 1, 1, "empty"},
		{" \n", 1, 1, "empty"},
		{strings.Repeat(" ", MaxBytes) + "true", 0, 0, "longer than 2048 bytes"},
		{"event.data.country = 'DE'", 1, 20, ""},
		{"true &&\n  (", 2, 4, ""},
		{"events.data == 1", 1, 1, "undeclared"},
		{"event.data.country", 1, 11, "must be a condition (bool), not dyn"},
		{"1 + 1", 1, 3, "must be a condition (bool), not int"},
		{"event.data.a == 1 && 'x'", 1, 22, ""},
		{"event.data.a.matches(event.data.b)", 1, 32, "must be a literal"},
		{"event.data.a.matches('(')", 1, 22, ""},
		{"event.data.a.replace('a', 'b') == ''", 1, 21, "replace() is not offered"},
		{"event.data.a.join(',') == ''", 1, 18, "join() is not offered"},
		{"'%s'.format([event.data.a]) == ''", 1, 12, "format() is not offered"},
		{"timestamp('yesterday') < event.time", 1, 11, ""},
		{"unknown(1)", 1, 8, "undeclared"},
		{"event.data.a.all(x, event.data.a.all(y, event.data.a.all(z, x == y && y == z)))", 1, 57, ""},
		{strings.Repeat("(", 300) + "true" + strings.Repeat(")", 300), 0, 0, ""},
		{strings.Repeat("event.data.a.all(x, event.data.b.all(y, x + y == x + x)) && ", 3) + "true", 0, 0, "too costly"},
		{"[1" + strings.Repeat(",1", 600) + "].size() == 1", 0, 0, ""},
	} {
		f, err := c.Compile(tc.src)
		var bad *SyntaxError
		if !errors.As(err, &bad) {
			t.Errorf("%.60q: %v, %v", tc.src, f, err)
			continue
		}
		if tc.line != 0 && (bad.Line != tc.line || bad.Column != tc.column) || !strings.Contains(bad.Rule, tc.rule) {
			t.Errorf("%.60q: %v; want %d:%d %s", tc.src, err, tc.line, tc.column, tc.rule)
		}
	}
}

// Loops over objects go in the order of the document, each time.
func TestLoopsKeepTheOrder(t *testing.T) {
	t.Parallel()
	in := Input{Data: []byte(`{"z":1,"b":{"y":1,"a":2,"m":3,"k":4,"c":5},"a":3,"x":4}`)}
	f := compile(t, "event.data.map(k, k) == ['z', 'b', 'a', 'x'] && event.data.b.filter(k, event.data.b[k] > 1)[0] == 'a' && event.data.b.map(k, k)[4] == 'c' && event.map(k, k)[0] == 'tenant'")
	for range 50 {
		if pass, err := f.Match(in); !pass || err != nil {
			t.Fatal(pass, err)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	f := compile(t, "event.data.owner.level == 3 && event.data.tags.exists(t, t == event.data.want)")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			in := Input{Data: fmt.Appendf(nil, `{"owner":{"level":3},"tags":["t0","t1","t2"],"want":"t%d"}`, i)}
			for range 100 {
				if pass, err := f.Match(in); err != nil || pass != (i < 3) {
					t.Errorf("%d: %v, %v", i, pass, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkMatch(b *testing.B) {
	for name, src := range map[string]string{
		"type":  "event.type == 'contact.updated'",
		"field": "event.data.country == 'DE'",
		"list":  "event.data.tags.exists(t, t == 'eu') && event.data.owner.level > 2",
	} {
		b.Run(name, func(b *testing.B) {
			f := compile(b, src)
			b.ReportAllocs()
			for b.Loop() {
				if pass, err := f.Match(testEvent); !pass || err != nil {
					b.Fatal(pass, err)
				}
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	c, err := NewCompiler()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := c.Compile("event.data.country == 'DE' && event.data.tags.exists(t, t == 'vip')"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkNewCompiler(b *testing.B) {
	for b.Loop() {
		if _, err := NewCompiler(); err != nil {
			b.Fatal(err)
		}
	}
}

// Whatever compiles runs within its bounds, gives the same answer twice, and
// reads at least what it needs of the data: with all of it decoded the answer is the same.
func FuzzCompile(f *testing.F) {
	for _, src := range []string{"event.data.country == 'DE'", "has(event.data.x)", "event.data.tags.exists(t, t == 'vip')", "event.data['a.b'] == 1", "[event][0].data.flag == true", ".event.data.flag == true", "{'a': event.data}.a.flag == true", "event.data.country.matches('^D')", "event.time > timestamp('2026-01-01T00:00:00Z')", "event.data.text.split('a').size() == 3"} {
		f.Add(src)
	}
	c, err := NewCompiler()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, src string) {
		filter, err := c.Compile(src)
		if err != nil {
			var bad *SyntaxError
			if !errors.As(err, &bad) || bad.Rule == "" {
				t.Fatalf("%q: %v", src, err)
			}
			return
		}
		pass, err := filter.Match(testEvent)
		again, errAgain := filter.Match(testEvent)
		if pass != again || (err == nil) != (errAgain == nil) {
			t.Fatalf("%q: %v, %v, then %v, %v", src, pass, err, again, errAgain)
		}
		filter.reads = reads{all: true}
		all, errAll := filter.Match(testEvent)
		if pass != all || (err == nil) != (errAll == nil) {
			t.Fatalf("%q: %v, %v; with all data %v, %v", src, pass, err, all, errAll)
		}
	})
}
