package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealpost/sealpost/signer"
)

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestVerify stores a request of each scheme and has it checked, right and wrong.
func TestVerify(t *testing.T) {
	t.Parallel()
	const body, url = "{\"type\":\"contact.updated\",\"data\":{\"name\":\"Zoë\"}}\n", "https://hooks.partner.example/crm"
	for _, scheme := range signer.Schemes() {
		t.Run(string(scheme), func(t *testing.T) {
			t.Parallel()
			key, err := signer.GenerateKey(scheme)
			if err != nil {
				t.Fatal(err)
			}
			header := signed(t, scheme, key, body, url)
			secret := writeFile(t, "secret", key.Reveal()+"\n")
			keys := []string{secret}
			if public := key.PublicText(); public != "" {
				keys = append(keys, writeFile(t, "public", public))
			}
			for _, file := range keys {
				base := []string{"verify", "--secret-file", file, "--scheme", string(scheme), "--url", url}
				dump := writeFile(t, "dump", "POST /crm HTTP/1.1\r\nHost: hooks.partner.example\r\n"+header+"\r\n"+body)
				check(t, exitDone, append(base, "--request", dump))
				check(t, exitDone, append(base, "--headers", writeFile(t, "h", header), "--body", writeFile(t, "b", body)))
				check(t, exitFailed, append(base, "--headers", writeFile(t, "h", header), "--body", writeFile(t, "b", body+" ")))
				stale := exitFailed
				if scheme.Facts().Replayable {
					stale = exitDone
				}
				check(t, stale, append(base, "--request", dump, "--at", "2001-01-01T00:00:00Z"))
			}
			other, err := signer.GenerateKey(scheme)
			if err != nil {
				t.Fatal(err)
			}
			stored := []string{"--headers", writeFile(t, "h", header), "--body", writeFile(t, "b", body)}
			wrong := append([]string{"verify", "--scheme", string(scheme), "--url", url}, stored...)
			check(t, exitFailed, append(wrong, "--secret-file", writeFile(t, "other", other.Reveal())))
			check(t, exitDone, append(wrong, "--secret-file", writeFile(t, "other", other.Reveal()), "--secret-file", secret))
		})
	}
}

func signed(t *testing.T, scheme signer.Scheme, key signer.Key, body, url string) string {
	t.Helper()
	ring, err := signer.NewKeyring(key)
	if err != nil {
		t.Fatal(err)
	}
	s, err := signer.NewSigner(scheme, ring)
	if err != nil {
		t.Fatal(err)
	}
	h := http.Header{}
	if _, err := s.Sign(h, &signer.Message{ID: "dlv_1", Time: time.Now(), Method: "POST", URL: url, Body: []byte(body)}); err != nil {
		t.Fatal(err)
	}
	var lines strings.Builder
	if err := h.Write(&lines); err != nil {
		t.Fatal(err)
	}
	return lines.String()
}

func check(t *testing.T, want int, args []string) {
	t.Helper()
	var out, errs bytes.Buffer
	if got := execute(context.Background(), append(args, "--output", "json"), strings.NewReader(""), &out, &errs); got != want {
		t.Errorf("%v: exit status %d, not %d: %s", args, got, want, &errs)
	}
	var result verifyResult
	if err := json.Unmarshal(out.Bytes(), &result); err != nil || result.Verified != (want == exitDone) || result.Verified == (result.Reason != "") {
		t.Errorf("%v: %v, %s", args, err, &out)
	}
}

func TestReadLine(t *testing.T) {
	t.Parallel()
	in := newLines("one\r\n\n" + strings.Repeat("x", 100) + "\nlast")
	var got []string
	for {
		line, err := readLine(in, 20)
		if err != nil && err != errLongLine {
			break
		}
		got = append(got, fmt.Sprintf("%s %v", line, err == errLongLine))
	}
	if want := "one false| false| true|last false"; strings.Join(got, "|") != want {
		t.Errorf("%q, not %q", strings.Join(got, "|"), want)
	}
}

func newLines(text string) *bufio.Reader { return bufio.NewReaderSize(strings.NewReader(text), 16) }

func FuzzLine(f *testing.F) {
	for _, seed := range []string{
		`{"tenant":"acme","id":"evt_1","type":"a.b","time":"2026-01-02T03:04:05Z","subject":"s","data":{"n":1.50}}`, `{}`, `[]`, `{"data":null}`,
		`{"data":{"a":1,"a":2}}`, `{"id":"a","id":"b"}`, `{"ID":"a"}`, "{\"id\":\"\xff\"}", `{"time":"never"}`, `{"a":1}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := (&publishing{tenant: "acme"}).parse(line)
		if err != nil {
			return
		}
		// What is taken is JSON to others too, and its data is what stood in the line.
		if !json.Valid(line) || len(e.Data) > 0 && !bytes.Contains(line, e.Data) || e.Tenant == "" {
			t.Errorf("%q is taken for %+v", line, e)
		}
	})
}

func FuzzDump(f *testing.F) {
	for _, seed := range []string{"POST / HTTP/1.1\r\nHost: a\r\n\r\nbody", "POST / HTTP/1.1\nWebhook-Id: a\n\n", "GET", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, dump []byte) {
		v := verifying{request: "-"}
		if _, r, err := v.readDump(bytes.NewReader(dump)); err == nil && len(r.Body) > len(dump) {
			t.Errorf("a body of %d bytes out of %d", len(r.Body), len(dump))
		}
	})
}
