package main

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestNearest(t *testing.T) {
	t.Parallel()
	known := leafKeys(reflect.TypeFor[config](), "")
	for word, want := range map[string]string{
		"gprc": "grpc", "htttp": "http", "tls.crt": "tls.cert", "journal.dedup_window": "journal.dedupWindow", "dedupWindow": "journal.dedupWindow",
		"delivery.retryInterval": "delivery.retryIntervals", "egres.allow": "egress.allow", "DATA": "data", "log.lvl": "log.level",
	} {
		if got := nearest(word, known); got != want {
			t.Errorf("nearest(%q) = %q, not %q", word, got, want)
		}
	}
}

func TestDistance(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"kitten", "sitting", 3}, {"flaw", "lawn", 2}, {"größe", "grösse", 2}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("distance(%q, %q) = %d, not %d", c.a, c.b, got, c.want)
		}
	}
	word := rapid.StringMatching(`[a-cé]{0,8}`)
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := word.Draw(t, "a"), word.Draw(t, "b"), word.Draw(t, "c")
		switch {
		case distance(a, b) != distance(b, a):
			t.Fatal("not symmetric")
		case (distance(a, b) == 0) != (a == b):
			t.Fatal("zero for what differs, or not for what is the same")
		case distance(a, c) > distance(a, b)+distance(b, c):
			t.Fatal("a detour is shorter")
		}
	})
}

func TestVariables(t *testing.T) {
	t.Parallel()
	keys := leafKeys(reflect.TypeFor[config](), "")
	names := map[string]string{}
	for _, key := range keys {
		name := variable(key)
		if other := names[name]; other != "" {
			t.Errorf("%s is both %s and %s", name, key, other)
		}
		names[name] = key
	}
	// The clients' variables are not keys, and Kubernetes makes variables of services' names.
	for _, taken := range []string{"SEALPOST_SERVER", "SEALPOST_TOKEN_FILE", "SEALPOST_CA", "SEALPOST_CLIENT_FILE", "SEALPOST_CONFIG", "SEALPOST_PORT", "SEALPOST_SERVICE_HOST"} {
		if names[taken] != "" {
			t.Errorf("%s is the variable of %s, and means something else", taken, names[taken])
		}
	}
	if variable("journal.maxEventBytes") != "SEALPOST_JOURNAL_MAX_EVENT_BYTES" || !slices.Contains(keys, "journal.maxEventBytes") {
		t.Error(variable("journal.maxEventBytes"), keys)
	}
	for _, one := range serveFlags {
		if !slices.Contains(keys, one.key) {
			t.Errorf("--%s is for %s, which is no key", one.flag, one.key)
		}
	}
}

func TestPrecedence(t *testing.T) {
	t.Parallel()
	file := writeFile(t, "c.yaml", "grpc: file\nhttp: file\nadmin: file\njournal:\n  dedupWindow: 1m\negress:\n  allow: [10.0.0.0/8]\n")
	environ := []string{"SEALPOST_HTTP=variable", "SEALPOST_ADMIN=variable", "SEALPOST_DATA=", "SEALPOST_JOURNAL_DEDUP_WINDOW=2m", "SEALPOST_HTTP_PORT=1",
		"SEALPOST_DELIVERY_RETRY_INTERVALS=1s,2s"}
	c, err := loadConfig(file, environ, map[string]string{"admin": "flag", "egress.allow": "192.0.2.0/24,2001:db8::/32"})
	if err != nil {
		t.Fatal(err)
	}
	if c.GRPC != "file" || c.HTTP != "variable" || c.Admin != "flag" || c.Data != "" || c.Journal.DedupWindow != 2*time.Minute {
		t.Errorf("%+v", c)
	}
	if len(c.Egress.Allow) != 2 || c.Egress.Allow[1].String() != "2001:db8::/32" {
		t.Error(c.Egress.Allow)
	}
	if !slices.Equal(c.Delivery.RetryIntervals, []time.Duration{time.Second, 2 * time.Second}) {
		t.Error(c.Delivery.RetryIntervals)
	}
}

func TestSizes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{"0": 0, "4096": 4096, "-1": -1, "64KiB": 64 << 10, "1MiB": 1 << 20, "32GiB": 32 << 30, "2TiB": 2 << 40, `"7B"`: 7} {
		var got int64
		if err := size(&got, []byte(text)); err != nil || got != want {
			t.Errorf("%s is %d, %v; not %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "MiB", "1.5GiB", "1 MiB", "64MB", "64mib", "9999999TiB", "x", "iB", "1KiBKiB"} {
		var got int64
		if err := size(&got, []byte(text)); err == nil {
			t.Errorf("%q is taken for %d", text, got)
		}
	}
}

func TestConfigRefusals(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"grpcs: x":                    `line 1: unknown key "grpcs"; did you mean "grpc"?`,
		"\n\ntls:\n  crt: x":          `line 4: unknown key "tls.crt"; did you mean "tls.cert"?`,
		"tls: {cert: a, keyy: b}":     `unknown key "tls.keyy"; did you mean "tls.key"?`,
		"- a":                         "the file must be a mapping",
		"a: 1\n---\nb: 2":             "more than one YAML document",
		"openView: x":                 `unknown key "openView"`,
		"journal: {partitions: many}": "line 1: journal.partitions must be a number",
		"dev: maybe":                  "line 1: dev must be true or false",
		"\negress:\n  allow: [10]":    "line 3: egress.allow must be a list, each a CIDR",
		"grpc: [a]":                   "line 1: grpc must be text",
		"egress: {ports: [70000]}":    "line 1: egress.ports must be a list, each a port",
	} {
		if _, err := loadConfig(writeFile(t, "c.yaml", text), nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, not %s", text, err, want)
		}
	}
	for _, fine := range []string{"", "# nothing\n", "---\n", "grpc: \"127.0.0.1:1\" # here\n", "tls:\n"} {
		if _, err := loadConfig(writeFile(t, "c.yaml", fine), nil, nil); err != nil {
			t.Errorf("%q: %v", fine, err)
		}
	}
	if _, err := loadConfig("", []string{"SEALPOST_JOURNAL_DEDUP_WINDOW=soon"}, nil); err == nil || !strings.Contains(err.Error(), "SEALPOST_JOURNAL_DEDUP_WINDOW") {
		t.Error(err)
	}
}

func FuzzConfig(f *testing.F) {
	for _, seed := range []string{"", "grpc: x", "tls: {cert: a}", "journal:\n  partitions: 2", "a: &x [*x]", "<<: {grpc: a}", "? [a]\n: b", "log: null"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var c config
		_ = decodeConfig(text, &c) // an error or a configuration, never a panic
	})
}
