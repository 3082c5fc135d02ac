package trust_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealpost/sealpost/test/rig"
)

// audited is a configuration with checkpoints outside of the data folder.
func audited(t *testing.T) (rig.Config, string) {
	t.Helper()
	outside := filepath.Join(t.TempDir(), "kept.checkpoints")
	return rig.Dev().With(rig.Config{"audit": rig.Config{"checkpoints": outside, "publishEvery": "1s"}}), outside
}

func entries(t *testing.T, p *rig.Process, args ...string) []rig.Object {
	t.Helper()
	var list rig.Object
	if err := json.Unmarshal([]byte(must(t, p, append([]string{"audit", "list", "--output", "json"}, args...)...)), &list); err != nil {
		t.Fatal(err)
	}
	return list.L("entries")
}

// TestAuditLog: who did what, from where, why, before and after; and anybody with the public key can verify it without a server.
func TestAuditLog(t *testing.T) {
	t.Parallel()
	config, outside := audited(t)
	p := rig.Start(t, binary, config)
	partner := rig.NewPartner(t, nil, nil)
	secrets := []string{"recognisable-bearer", "recognisable-key"}
	ep := p.Register(partner.URL+"/?key="+secrets[1], rig.Object{"bearerToken": secrets[0]})
	secrets = append(secrets, ep.Secret)
	p.OK("POST", "/v1/endpoints/"+ep.ID+":pause", rig.Object{"tenant": "acme", "reason": "holidays"})
	made := p.OK("POST", "/v1/tokens", rig.Object{"account": "crm", "role": "PUBLISHER", "tenant": "acme"})
	secrets = append(secrets, made.S("secret"), p.Token)
	crm := p.As(made.S("secret"))
	if a := crm.Do("POST", "/v1/endpoints", rig.Object{"tenant": "acme", "url": partner.URL}); a.Status != http.StatusForbidden {
		t.Fatalf("a publisher registers: %d", a.Status)
	}
	if a := crm.Do("GET", "/v1/audit", nil); a.Status != http.StatusForbidden {
		t.Errorf("a publisher reads the audit log: %d", a.Status)
	}

	list := entries(t, p, "--object", ep.ID, "--act", "endpoint.pause")
	if len(list) != 2 || list[0].S("outcome") != "DONE" || list[1].S("outcome") != "ALLOWED" || list[0].S("actId") != list[1].S("actId") {
		t.Fatalf("pausing: %v", list)
	}
	e := list[1]
	if e.S("account") != "operator" || e.S("credentialKind") != "BOOTSTRAP" || e.S("credentialId") == "" || e.S("address") != "127.0.0.1" || e.S("scope") != "endpoints.operate" ||
		e.S("reason") != "holidays" || e.S("before", "state") != "ACTIVE" || e.S("after", "state") != "PAUSED" || e.S("tenant") != "acme" {
		t.Errorf("who paused it: %v", e)
	}
	refused := entries(t, p, "--outcome", "refused", "--account", "crm")
	if len(refused) != 2 || refused[1].S("act") != "endpoint.create" || refused[1].S("scope") != "endpoints.write" || refused[1].S("reason") == "" {
		t.Errorf("who was refused: %v", refused)
	}

	// Everything that follows is verified without a server.
	key := file(t, "audit.pub", must(t, p, "audit", "key"))
	first := file(t, "first.checkpoint", must(t, p, "audit", "checkpoint"))
	verify := func(args ...string) (string, *failure) {
		return run(append([]string{"audit", "verify", "--key", key}, args...)...)
	}
	good := func(what string, args ...string) {
		t.Helper()
		if out, failed := verify(args...); failed != nil || !strings.Contains(out, "verified: ") {
			t.Errorf("%s: %q, %+v", what, out, failed)
		}
	}
	bad := func(what string, args ...string) {
		t.Helper()
		if _, failed := verify(args...); failed == nil || failed.code != 1 {
			t.Errorf("%s: %+v", what, failed)
		}
	}
	good("a checkpoint", first)
	proof := must(t, p, "audit", "prove", e.S("sequence"))
	good("an inclusion proof", file(t, "p", proof))
	record, err := base64.StdEncoding.DecodeString(e.S("record"))
	if err != nil || !strings.Contains(proof, e.S("record")) {
		t.Fatalf("the proof is not of the record: %v", err)
	}
	forged := bytes.Replace(record, []byte("holidays"), []byte("HOLIDAYS"), 1)
	bad("a forged record", file(t, "p", strings.Replace(proof, e.S("record"), base64.StdEncoding.EncodeToString(forged), 1)))
	bad("another index", file(t, "p", strings.Replace(proof, "\nindex ", "\nindex 1", 1)))

	p.MustAct(ep, "resume")
	p.Kill() // the tree goes on from wherever it was
	p.Restart(nil)
	p.MustAct(ep, "pause")
	since := must(t, p, "audit", "prove", "--since", first)
	good("a consistency proof", file(t, "c", since), "--since", first)
	text, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	bad("another checkpoint before", file(t, "c", since), "--since", file(t, "f", strings.Replace(string(text), "\n", "\n1", 1)))

	exported := filepath.Join(t.TempDir(), "audit.ndjson")
	must(t, p, "audit", "export", "--to", exported)
	p.Stop() // which writes the last checkpoint outside
	good("an export", exported)
	if all, err := os.ReadFile(outside); err != nil || strings.Count(string(all), "\n") < 2 {
		t.Errorf("outside: %s, %v", all, err)
	}
	good("the checkpoints outside", outside)
	lines, err := os.ReadFile(exported)
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.Replace(lines, []byte(e.S("record")), []byte(base64.StdEncoding.EncodeToString(forged)), 1)
	bad("a forged export", file(t, "x", string(text)))
	cut := bytes.Split(bytes.TrimSpace(lines), []byte("\n"))
	bad("a cut export", file(t, "x", string(bytes.Join(cut[:len(cut)-1], []byte("\n")))))
	stranger := strings.Replace(must2(os.ReadFile(key)), "+", "x+", 1)
	if _, failed := run("audit", "verify", "--key", file(t, "k", stranger), exported); failed == nil {
		t.Error("verified by another key")
	}

	// No secret is in it.
	for _, line := range cut[1:] {
		var one struct{ Record []byte }
		if err := json.Unmarshal(line, &one); err != nil {
			t.Fatal(err)
		}
		for _, s := range secrets {
			if s == "" || bytes.Contains(one.Record, []byte(s)) {
				t.Errorf("a record holds the secret %q", s)
			}
		}
	}
}

func must2(text []byte, err error) string {
	if err != nil {
		panic(err)
	}
	return string(text)
}

// restore makes a process of an archive.
func restore(t *testing.T, archive string, config rig.Config) *rig.Process {
	t.Helper()
	q := rig.New(t, binary, config)
	if out, err := exec.Command(binary, "restore", "--from", archive, "--data", q.Data).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := q.Begin(); err != nil {
		t.Fatalf("it does not start: %v\n%s", err, q.Tail())
	}
	return q
}

// held expects that acts are refused, and that everything else goes on; and then that they are done again once somebody has accepted it.
func held(t *testing.T, q *rig.Process, ep rig.Endpoint, partner *rig.Partner) {
	t.Helper()
	create := rig.Object{"account": "x", "role": "PUBLISHER", "tenant": "acme"}
	rig.Eventually(t, "acts are refused", func() bool { return q.Do("POST", "/v1/tokens", create).Status == http.StatusServiceUnavailable })
	if !strings.Contains(q.Readiness().S("audit"), "broken") || q.Metric("sealpost_audit_broken", "") != 1 {
		t.Errorf("readiness: %v", q.Readiness())
	}
	if a := q.Act(ep, "approve"); a.Status == http.StatusOK {
		t.Error("an endpoint is approved while the audit log is not what it was")
	}
	before := partner.Count()
	q.Publish(rig.Event("while-broken", `{}`))
	q.AwaitDelivery(ep, "while-broken", "DELIVERED")
	if partner.Count() == before {
		t.Error("nothing is delivered")
	}
	q.MustAct(ep, "pause") // what takes something away can be done
	q.Kill()               // it is still known
	if err := q.Begin(); err != nil {
		t.Fatal(err)
	}
	if a := q.Act(ep, "resume"); a.Status != http.StatusServiceUnavailable {
		t.Errorf("after a restart: %d %s", a.Status, a.Raw)
	}
	if _, failed := as(q, "audit", "accept"); failed == nil || failed.code != 2 {
		t.Errorf("accepted without a reason: %+v", failed)
	}
	must(t, q, "audit", "accept", "--reason", "ticket 42")
	q.OK("POST", "/v1/tokens", create)
	q.MustAct(ep, "resume")
	accepted := entries(t, q, "--act", "audit.accept")
	if len(accepted) < 2 || accepted[0].S("outcome") != "DONE" || accepted[1].S("reason") != "ticket 42" || accepted[1].S("before", "kind") == "" {
		t.Errorf("who accepted it: %v", accepted)
	}
	q.Kill()
	if err := q.Begin(); err != nil {
		t.Fatal(err)
	}
	q.OK("POST", "/v1/tokens", create)
}

// TestTamperedRecordIsFound: a record that was changed where it is stored, checksums and all, is found by the relay itself and by whoever verifies.
func TestTamperedRecordIsFound(t *testing.T) {
	t.Parallel()
	p := rig.Start(t, binary, rig.Dev())
	partner := rig.NewPartner(t, nil, nil)
	ep := p.Register(partner.URL, nil)
	p.OK("POST", "/v1/endpoints/"+ep.ID+":pause", rig.Object{"tenant": "acme", "reason": "holidays"})
	p.MustAct(ep, "resume")
	must(t, p, "audit", "checkpoint") // the tree has it
	key := file(t, "audit.pub", must(t, p, "audit", "key"))
	archive := filepath.Join(t.TempDir(), "copy.tar")
	must(t, p, "backup", "--to", archive)
	p.Stop()
	if n := forge(t, archive, "holidays", "HOLIDAYS"); n == 0 {
		t.Fatal("no record holds the reason")
	}
	q := restore(t, archive, rig.Dev())
	held(t, q, ep, partner)
	if _, failed := as(q, "audit", "verify", "--key", key); failed == nil || failed.code != 1 {
		t.Errorf("verified: %+v", failed)
	}
	tampered := entries(t, q, "--act", "endpoint.pause", "--limit", "1000")
	found := false
	for _, e := range tampered {
		yes, _ := e["tampered"].(bool)
		found = found || yes && e.S("reason") == "HOLIDAYS"
		if yes && e.S("reason") != "HOLIDAYS" {
			t.Errorf("said to be tampered with: %v", e)
		}
		if yes {
			if _, failed := as(q, "audit", "prove", e.S("sequence")); failed == nil {
				t.Error("it is proven all the same")
			}
		}
	}
	if !found {
		t.Errorf("it is not shown which: %v", tampered)
	}
}

// TestOlderCopyIsFound: a copy from before the last checkpoint outside is found at its first start, before any act.
func TestOlderCopyIsFound(t *testing.T) {
	t.Parallel()
	config, outside := audited(t)
	p := rig.Start(t, binary, config)
	partner := rig.NewPartner(t, nil, nil)
	ep := p.Register(partner.URL, nil)
	key := file(t, "audit.pub", must(t, p, "audit", "key"))
	archive := filepath.Join(t.TempDir(), "copy.tar")
	must(t, p, "backup", "--to", archive)
	for range 20 {
		p.OK("POST", "/v1/tokens", rig.Object{"account": "lost", "role": "PUBLISHER", "tenant": "acme"})
	}
	p.Stop()
	kept := must2(os.ReadFile(outside))
	q := restore(t, archive, config)
	held(t, q, ep, partner)
	if _, failed := as(q, "audit", "verify", "--key", key, "--checkpoints", file(t, "kept", kept)); failed == nil || failed.code != 1 {
		t.Errorf("who compares with what was kept elsewhere does not see it: %+v", failed)
	}
	must(t, q, "audit", "verify", "--key", key) // by itself it is whole
}

// forge changes the text in the audit log of an archive, and makes its sums right; it answers how often.
func forge(t *testing.T, archive, old, fresh string) (n int) {
	t.Helper()
	from := must2(os.ReadFile(archive))
	var to bytes.Buffer
	in, out := tar.NewReader(strings.NewReader(from)), tar.NewWriter(&to)
	sums := map[string]string{}
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case strings.HasPrefix(h.Name, "logs/AUDIT/"):
			was := sum(body)
			n += bytes.Count(body, []byte(old))
			body = bytes.ReplaceAll(body, []byte(old), []byte(fresh))
			sums[was] = sum(body)
		case h.Name == "SHA256SUMS":
			for was, now := range sums {
				body = bytes.ReplaceAll(body, []byte(was), []byte(now))
			}
		}
		h.Size = int64(len(body))
		if err := out.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(archive, to.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return n
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// TestAuditConfiguration refuses a place for checkpoints that proves nothing.
func TestAuditConfiguration(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, where := range []string{filepath.Join(dir, "data", "checkpoints"), filepath.Join(dir, "nowhere", "checkpoints")} {
		name := file(t, "sealpost.yaml", fmt.Sprintf("data: %s\naudit: {checkpoints: %s}\ngrpc: 127.0.0.1:0\nhttp: 127.0.0.1:0\nadmin: 127.0.0.1:0\n", filepath.Join(dir, "data"), where))
		if _, failed := run("serve", "--config", name); failed == nil || !strings.Contains(failed.said, "checkpoints") {
			t.Errorf("%s: %+v", where, failed)
		}
	}
}
