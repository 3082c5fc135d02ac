package e2e_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"filippo.io/age"

	"github.com/sealpost/sealpost/signer"
	"github.com/sealpost/sealpost/test/rig"
)

// command runs the binary as a person would, against a process.
func command(p *rig.Process, args ...string) (string, error) {
	cmd := exec.Command(binary, append(args, "--client-file", filepath.Join(p.Data, "client.yaml"))...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// restored is a process in a folder that was made of an archive.
func restored(t *testing.T, archive string, config rig.Config, more ...string) *rig.Process {
	t.Helper()
	q := rig.New(t, binary, config)
	if out, err := exec.Command(binary, append([]string{"restore", "--from", archive, "--data", q.Data}, more...)...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := q.Begin(); err != nil {
		t.Fatalf("it does not start: %v\n%s", err, q.Tail())
	}
	return q
}

// TestBackup copies a process in the middle of everything, and goes on elsewhere from the copy: what was accepted before is there and stands
// where it stood, what was settled is not sent again, and keys and tokens work.
func TestBackup(t *testing.T) {
	t.Parallel()
	config := rig.Dev().With(rig.Config{"journal": rig.Config{"minFreeDisk": -1, "partitions": 2},
		"delivery": rig.Config{"retryIntervals": []string{"100ms", "1s"}, "checkpointEvery": "200ms"}})
	p := rig.Start(t, binary, config)
	good, failing, picky, paused := rig.NewPartner(t, nil, nil), rig.NewPartner(t, nil, rig.Status(503)), rig.NewPartner(t, nil, rig.Status(400)), rig.NewPartner(t, nil, nil)
	ep := map[string]rig.Endpoint{}
	for name, partner := range map[string]*rig.Partner{"good": good, "failing": failing, "picky": picky, "paused": paused} {
		ep[name] = p.Register(partner.URL, nil)
	}
	p.MustAct(ep["paused"], "pause")
	elsewhere := p.Register(good.URL, rig.Object{"tenant": "globex"}) // in another partition, most likely
	token := p.OK("POST", "/v1/tokens", rig.Object{"account": "crm", "role": "PUBLISHER", "tenant": "acme", "ttl": "3600s"}).S("secret")

	early := p.PublishMany("acme", "early", 60)
	p.PublishMany("globex", "early", 60)
	p.AwaitCount("tenant=acme&state=DELIVERED&endpointId="+ep["good"].ID, 60)
	p.AwaitCount("tenant=acme&state=DEAD&endpointId="+ep["picky"].ID, 60)
	p.AwaitCount("tenant=globex&state=DELIVERED", 60)

	// Publishing goes on, before, while and after.
	var mu sync.Mutex
	var accepted []string
	stop, enough := make(chan struct{}), make(chan struct{})
	var load sync.WaitGroup
	load.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			id := fmt.Sprint("load-", n)
			a, err := p.Send("POST", "/v1/events", "application/json", fmt.Appendf(nil, `{"tenant":"acme","id":%q,"type":"contact.updated","data":{"n":%d}}`, id, n))
			if err != nil || a.Status != http.StatusOK {
				t.Errorf("publishing: %v %d %s", err, a.Status, a.Raw)
				return
			}
			mu.Lock()
			accepted = append(accepted, id)
			mu.Unlock()
			if n == 200 {
				close(enough)
			}
		}
	})
	<-enough
	mu.Lock()
	before := append(append([]string(nil), early...), accepted...)
	mu.Unlock()
	file := filepath.Join(t.TempDir(), "backup.tar")
	out, err := command(p, "backup", "--to", file)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	close(stop)
	load.Wait()
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	if out, err := command(p, "backup", "--to", file); err == nil || !strings.Contains(out, "is there already") {
		t.Errorf("over a file: %v %s", err, out)
	}
	if out, err := exec.Command(binary, "restore", "--from", file, "--data", p.Data).CombinedOutput(); err == nil || !strings.Contains(string(out), "in use by process") {
		t.Errorf("over a folder that is held: %v %s", err, out)
	}
	p.Kill()
	if out, err := exec.Command(binary, "restore", "--from", file, "--data", p.Data).CombinedOutput(); err == nil || !strings.Contains(string(out), "not empty") {
		t.Errorf("over a folder that is not empty: %v %s", err, out)
	}

	q := restored(t, file, config)
	// The operator's token is the one of before, and so is the publisher's.
	if q.Token != p.Token {
		t.Error("the operator has another token")
	}
	if a := q.As(token).Do("POST", "/v1/events", rig.Event(early[0], `{"n":0}`)); a.Status != http.StatusOK || a.Object["duplicate"] != true {
		t.Errorf("a repeat of what was accepted before: %d %s", a.Status, a.Raw)
	}
	failing.Answer(nil)
	q.MustAct(ep["paused"], "resume")
	states := func(name string) map[string]string {
		all := map[string]string{}
		for _, d := range q.Deliveries("tenant=acme&endpointId=" + ep[name].ID) {
			all[d.S("eventId")] = d.S("state")
		}
		return all
	}
	for name, want := range map[string]string{"good": "DELIVERED", "failing": "DELIVERED", "picky": "DEAD", "paused": "DELIVERED"} {
		missing := ""
		rig.Eventually(t, "everything to "+name+" is "+want, func() bool {
			is := states(name)
			for _, id := range before {
				if is[id] != want {
					missing = id + " is " + is[id]
					return false
				}
			}
			return true
		}, func() string { return missing })
	}
	q.AwaitCount("tenant=globex&state=DELIVERED&endpointId="+elsewhere.ID, 60)
	// What was settled before is not sent again; each of what is sent verifies with the secret of before.
	v := verifier(t, signer.Standard, keyOf(t, signer.Standard, ep["paused"]))
	for _, r := range paused.Receipts() {
		if _, err := v.Verify(r.Header, signer.Request{Method: "POST", URL: paused.URL, Body: r.Body}, r.At); err != nil {
			t.Fatalf("with the secret of before: %v", err)
		}
	}
	sent := map[string]int{}
	for _, r := range good.Receipts() {
		sent[r.ID()]++
	}
	for _, d := range q.Deliveries("tenant=acme&endpointId=" + ep["good"].ID) {
		if strings.HasPrefix(d.S("eventId"), "early-") && sent[d.S("id")] != 1 {
			t.Errorf("%s was sent %d times", d.S("eventId"), sent[d.S("id")])
		}
	}
	// And it goes on.
	q.Publish(rig.Event("evt_after", `{}`))
	q.AwaitDelivery(ep["good"], "evt_after", "DELIVERED")
	q.Kill()
	q.Restart(nil)
	q.Publish(rig.Event("evt_later", `{}`))
	q.AwaitDelivery(ep["good"], "evt_later", "DELIVERED")
}

// TestDamagedBackup: whatever is wrong with an archive, nothing is made, and nothing is left beside.
func TestDamagedBackup(t *testing.T) {
	t.Parallel()
	p := start(t)
	partner := rig.NewPartner(t, nil, nil)
	p.Register(partner.URL, nil)
	p.PublishMany("acme", "e", 100)
	p.AwaitCount("tenant=acme&state=DELIVERED", 100)
	dir := t.TempDir()
	file := filepath.Join(dir, "backup.tar")
	if out, err := command(p, "backup", "--to", file); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(whole, []byte("contact.updated"))
	if at < 0 {
		t.Fatal("no event is in it")
	}
	altered := bytes.Clone(whole)
	altered[at] ^= 1
	for name, data := range map[string][]byte{
		"empty": nil, "a third": whole[:len(whole)/3], "all but its sums": whole[:bytes.LastIndex(whole, []byte("SHA256SUMS"))], "one bit": altered, "something else": []byte("a text"),
	} {
		place := t.TempDir()
		bad := filepath.Join(dir, "bad.tar")
		if err := os.WriteFile(bad, data, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(binary, "restore", "--from", bad, "--data", filepath.Join(place, "data")).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "nothing was restored: the archive is damaged") {
			t.Errorf("%s: %v %s", name, err, out)
		}
		if left, _ := os.ReadDir(place); len(left) != 0 {
			t.Errorf("%s: %v is left", name, left)
		}
	}
}

// TestSealedBackup is encrypted to a key, and of use with its identity alone.
func TestSealedBackup(t *testing.T) {
	t.Parallel()
	p := start(t)
	partner := rig.NewPartner(t, nil, nil)
	ep := p.Register(partner.URL, nil)
	p.Publish(rig.Event("evt_1", `{"name":"Ada"}`))
	p.AwaitDelivery(ep, "evt_1", "DELIVERED")
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file, key := filepath.Join(dir, "backup.age"), filepath.Join(dir, "identity")
	if err := os.WriteFile(key, []byte(identity.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := command(p, "backup", "--to", file, "--age-recipient", identity.Recipient().String()); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if sealed, _ := os.ReadFile(file); bytes.Contains(sealed, []byte("Ada")) || !bytes.HasPrefix(sealed, []byte("age-encryption.org")) {
		t.Error("it is not encrypted")
	}
	if out, err := exec.Command(binary, "restore", "--from", file, "--data", filepath.Join(dir, "data")).CombinedOutput(); err == nil {
		t.Errorf("without the identity: %s", out)
	}
	q := restored(t, file, rig.Dev(), "--age-identity", key)
	q.AwaitDelivery(ep, "evt_1", "DELIVERED") // the view is built anew
	if a := q.OK("GET", "/v1/events/evt_1?tenant=acme", nil); a.O("data").S("name") != "Ada" {
		t.Errorf("%v", a)
	}
}

// TestBackupIsForOperators: nobody else gets one, nor an operator of one tenant; who got one is on record.
func TestBackupIsForOperators(t *testing.T) {
	t.Parallel()
	p := start(t)
	for _, grant := range []rig.Object{
		{"account": "crm", "role": "PUBLISHER", "tenant": "acme"}, {"account": "ann", "role": "PARTNER", "tenant": "acme"},
		{"account": "op", "role": "OPERATOR", "tenant": "acme"}, {"account": "op", "role": "OPERATOR", "scopes": []string{"events.read"}},
	} {
		grant["ttl"] = "3600s"
		dir := t.TempDir()
		token := filepath.Join(dir, "token")
		if err := os.WriteFile(token, []byte(p.OK("POST", "/v1/tokens", grant).S("secret")), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := command(p, "backup", "--to", filepath.Join(dir, "backup.tar"), "--token-file", token)
		if err == nil || !strings.Contains(out, "not permitted") {
			t.Errorf("%v: %v %s", grant, err, out)
		}
		if left, _ := os.ReadDir(dir); len(left) != 1 {
			t.Errorf("%v: %v is left", grant, left)
		}
	}
}
