package store

import (
	"crypto/tls"
	"strings"
	"testing"
	"time"
)

func TestParseAddress(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]address{
		"/var/lib/view":            {dir: "/var/lib/view"},
		"view":                     {dir: "view"},
		"embedded:///var/lib/view": {dir: "/var/lib/view"},
		"redis://h":                {nodes: []string{"h:6379"}, prefix: "sealpost:", timeout: 5 * time.Second},
		"redis://u:p%20w@h:1/3?prefix=x:&timeout=100ms": {nodes: []string{"h:1"}, user: "u", password: "p w", db: 3, prefix: "x:", timeout: 100 * time.Millisecond},
		"redis://[::1]":                       {nodes: []string{"[::1]:6379"}, prefix: "sealpost:", timeout: 5 * time.Second},
		"redis+cluster://a:1?addr=b:2&addr=c": {nodes: []string{"a:1", "b:2", "c:6379"}, cluster: true, prefix: "sealpost:", timeout: 5 * time.Second},
		"rediss://h":                          {nodes: []string{"h:6379"}, prefix: "sealpost:", timeout: 5 * time.Second, tls: &tls.Config{MinVersion: tls.VersionTLS12}},
	} {
		got, err := parseAddress(raw)
		if err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		if (got.tls == nil) != (want.tls == nil) || got.tls != nil && got.tls.MinVersion != want.tls.MinVersion {
			t.Errorf("%s: TLS %v", raw, got.tls)
		}
		got.tls, want.tls = nil, nil
		if strings.Join(got.nodes, " ") != strings.Join(want.nodes, " ") {
			t.Errorf("%s: nodes %v", raw, got.nodes)
		}
		got.nodes, want.nodes = nil, nil
		if got.dir != want.dir || got.user != want.user || got.password != want.password || got.db != want.db ||
			got.prefix != want.prefix || got.timeout != want.timeout || got.cluster != want.cluster {
			t.Errorf("%s: %+v", raw, got)
		}
	}
}

func TestParseAddressRefuses(t *testing.T) {
	t.Parallel()
	const password = "hunter2"
	for raw, want := range map[string]string{
		"":                                    "empty",
		"a\x00b":                              "zero byte",
		"http://h":                            "did you mean",
		"redi://u:hunter2@h":                  `did you mean "redis"`,
		"embedded://relative/path":            "absolute",
		"embedded:///":                        "absolute",
		"embedded:///x?prefix=y":              "no parameters",
		"redis://":                            "host is missing",
		"redis://u:hunter2@h:99999":           "host:port",
		"redis://u:hunter2@h:port":            "cannot be parsed",
		"redis://u:hunter2#x@h":               "cannot be parsed",
		"redis://u:hunter2@h#x":               "fragment",
		"redis://u:hunter2@h/zero":            "database",
		"redis://u:hunter2@h/-1":              "database",
		"redis+cluster://u:hunter2@h/1":       "cluster has none",
		"redis://u:hunter2@h?prefx=x":         `nearest known one is "prefix"`,
		"redis://u:hunter2@h?tiemout=1s":      `nearest known one is "timeout"`,
		"redis://u:hunter2@h?ca=x":            "unknown",
		"redis://u:hunter2@h?addr=b":          "unknown",
		"redis://u:hunter2@h?prefix=a&prefix": "twice",
		"redis://u:hunter2@h?prefix={x}":      "letters",
		"redis://u:hunter2@h?prefix=":         "letters",
		"redis://u:hunter2@h?timeout=1h":      "duration",
		"redis://u:hunter2@h?timeout=x":       "duration",
		"redis://u:hunter2@h?%zz":             "cannot be parsed",
		"redis+cluster://h?addr=:1":           "host:port",
		"rediss://u:hunter2@h?ca=/nowhere":    `parameter "ca"`,
		"rediss://u:hunter2@h?cert=/nowhere":  "go together",
	} {
		_, err := parseAddress(raw)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", raw, err, want)
		}
		if err != nil && strings.Contains(err.Error(), password) {
			t.Errorf("%q: the error shows the password: %v", raw, err)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, seed := range []string{"view", "embedded:///v", "redis://u:p@h:1/2?prefix=x:&timeout=1s", "rediss+cluster://h?addr=b:2", "redis://[::1]:"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		if strings.Contains(raw, "ca=") || strings.Contains(raw, "cert=") { // which read files
			return
		}
		a, err := parseAddress(raw)
		if err != nil {
			return
		}
		if a.dir == "" && (len(a.nodes) == 0 || !validPrefix(a.prefix) || a.timeout <= 0 || a.db < 0) {
			t.Fatalf("%q: %+v", raw, a)
		}
	})
}
