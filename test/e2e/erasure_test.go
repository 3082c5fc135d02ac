package e2e_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealpost/sealpost/test/rig"
)

// holding lists the files under a folder in which a text stands, as it is. Nothing of ours on the disk is compressed but the
// view's tables, which are scrubbed, and whose content the API shows; nothing is looked for in a disk's freed blocks.
func holding(t *testing.T, dir, text string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return ignoreGone(err)
		}
		data, err := os.ReadFile(name)
		if bytes.Contains(data, []byte(text)) {
			names = append(names, strings.TrimPrefix(name, dir))
		}
		return ignoreGone(err)
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

const (
	jane = "contact/jane-4711"
	mail = "jane-4711@example.org"
)

func about(subject, value string) rig.Object {
	return rig.Object{"tenant": "acme", "type": "contact.updated", "subject": subject, "data": rig.Object{"mail": value}}
}

// erase asks for the erasure of a subject and returns the operation's id.
func erase(t *testing.T, p *rig.Process, subject string) string {
	t.Helper()
	return p.OK("POST", "/v1/events:eraseSubject", rig.Object{"tenant": "acme", "subject": subject, "reason": "ticket 7"}).S("id")
}

func erased(t *testing.T, p *rig.Process, operation string) rig.Object {
	t.Helper()
	late := time.Now().Add(90 * time.Second)
	for {
		op := p.OK("GET", "/v1/operations/"+operation+"?tenant=acme", nil)
		switch op.S("state") {
		case "SUCCEEDED":
			return op
		case "FAILED", "CANCELLED":
			t.Fatalf("the erasure ended: %v", op)
		}
		if time.Now().After(late) {
			t.Fatalf("the erasure does not end: %v", op)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// erasing is a process with deliveries of a person's events, and of another's, in every state: delivered to a receiver that
// echoes what it gets, waiting for one that fails, parked for one that is paused, in flight to one that hangs.
func erasing(t *testing.T, p *rig.Process) (echo, paused *rig.Partner, pausedID string, events []string) {
	t.Helper()
	echo = rig.NewPartner(t, nil, func(r rig.Receipt) rig.Reply { return rig.Reply{Body: string(r.Body)} })
	paused = rig.NewPartner(t, nil, nil)
	failing := rig.NewPartner(t, nil, rig.Unavailable(1<<30))
	release := make(chan struct{})
	hanging := rig.NewPartner(t, nil, func(rig.Receipt) rig.Reply { <-release; return rig.Reply{} })
	t.Cleanup(func() { close(release) })
	p.Register(echo.URL, nil)
	p.Register(failing.URL, nil)
	p.Register(hanging.URL, nil)
	pausedID = p.Register(paused.URL, nil).ID
	p.OK("POST", "/v1/endpoints/"+pausedID+":pause", rig.Object{"tenant": "acme", "reason": "test"})
	for range 10 {
		events = append(events, p.OK("POST", "/v1/events", about(jane, mail)).S("id"))
		p.OK("POST", "/v1/events", about("contact/other", "other@example.org"))
	}
	echo.Await(t, 20)
	failing.Await(t, 1)
	hanging.Await(t, 1)
	return echo, paused, pausedID, events
}

// left demands that none of the texts is left in the data folder, and nothing of the person in what the API shows of the events.
func left(t *testing.T, p *rig.Process, events []string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if names := holding(t, p.Data, text); len(names) > 0 {
			t.Errorf("%q is still in %v", text, names)
		}
	}
	if !strings.Contains(fmt.Sprint(p.OK("GET", "/v1/events/"+events[0]+"?tenant=acme", nil)), events[0]) {
		t.Error("the event is not shown any more")
	}
	for _, id := range events {
		e := p.Do("GET", "/v1/events/"+id+"?tenant=acme", nil)
		if bytes.Contains(e.Raw, []byte("jane")) {
			t.Errorf("event %s shows %s", id, e.Raw)
		}
		for _, d := range p.OK("GET", "/v1/deliveries?tenant=acme&eventId="+id, nil).L("deliveries") {
			shown := p.Do("GET", "/v1/deliveries/"+d.S("id")+"?tenant=acme", nil)
			if bytes.Contains(shown.Raw, []byte("jane")) {
				t.Errorf("delivery %s shows %s", d.S("id"), shown.Raw)
			}
			state, reason := shown.S("state"), shown.S("reason")
			if state != "DELIVERED" && state != "DEAD" && (state != "CANCELLED" || reason != "ERASED") {
				t.Errorf("delivery %s is %s %s", d.S("id"), state, reason)
			}
		}
	}
}

// A person's events, wherever they are on their way, are gone from the data folder, from the view and from what is sent; another's, and
// what comes later, are delivered.
func TestErasure(t *testing.T) {
	t.Parallel()
	eachView(t, func(t *testing.T, view rig.Config) {
		p := start(t, view)
		echo, paused, pausedID, events := erasing(t, p)
		if len(holding(t, p.Data, mail)) < 2 {
			t.Fatalf("the mail is in %v: this test looks for nothing", holding(t, p.Data, mail))
		}
		op := erased(t, p, erase(t, p, jane))
		if op.N("progress", "done") != len(events) || op.S("kind") != "ERASURE" || len(op.S("subjectDigest")) != 64 {
			t.Errorf("%v", op)
		}
		left(t, p, events, mail, jane)
		p.OK("POST", "/v1/endpoints/"+pausedID+":resume", rig.Object{"tenant": "acme"})
		paused.Await(t, 10)
		p.OK("POST", "/v1/events", about(jane, "new@example.org")) // a new fact
		got := echo.Await(t, 21)
		if !bytes.Contains(got[20].Body, []byte("new@example.org")) {
			t.Errorf("got %s", got[20].Body)
		}
		paused.Await(t, 11)
		p.Stop()
		if err := p.Begin(); err != nil {
			t.Fatal(err)
		}
		left(t, p, events, mail)
		for _, r := range paused.Receipts() {
			if bytes.Contains(r.Body, []byte(mail)) {
				t.Errorf("sent after it was erased: %s", r.Body)
			}
		}
	})
}

// An erasure that is killed again and again, at any moment, comes to its end.
func TestErasureKilled(t *testing.T) {
	t.Parallel()
	p := start(t)
	_, paused, pausedID, events := erasing(t, p)
	id := erase(t, p, jane)
	for range 8 {
		time.Sleep(rand.N(400 * time.Millisecond)) // anywhere in it
		p.Kill()
		if err := p.Begin(); err != nil {
			t.Fatal(err)
		}
	}
	erased(t, p, id)
	left(t, p, events, mail, jane)
	p.OK("POST", "/v1/endpoints/"+pausedID+":resume", rig.Object{"tenant": "acme"})
	for _, r := range paused.Await(t, 10) {
		if bytes.Contains(r.Body, []byte(mail)) {
			t.Errorf("sent after it was erased: %s", r.Body)
		}
	}
}
