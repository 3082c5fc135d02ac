package faults_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealpost/sealpost/test/rig"
)

const (
	diskSize = 192 << 20
	spare    = 48 << 20 // what the test takes of a disk that is not its own
)

// TestDiskFull fills the file system that the data folder is on: below what is kept free, and then to the last byte. It mounts a
// tmpfs for that, in a process with mounts of its own, which needs no privilege where user namespaces are allowed. Where
// nothing may be mounted it takes the machine's own disk, of which all but a little is to be kept free, and fills that little.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	if mayMount() {
		diskFull(t, mount(t), 32<<20, true)
		return
	}
	err := inOwnMounts(t)
	if errors.Is(err, syscall.EPERM) {
		dir := t.TempDir()
		f := &filler{t, filepath.Join(dir, "none")}
		t.Logf("nothing may be mounted here (%v): on the machine's own disk, and not to the last byte", err)
		diskFull(t, dir, f.free()-spare, false)
	} else if err != nil {
		t.Fatal(err)
	}
}

// mount makes a small file system.
func mount(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("sealpost-test", dir, "tmpfs", 0, fmt.Sprintf("size=%d", diskSize)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// filler takes up room on a file system.
type filler struct {
	t    *testing.T
	path string
}

func (f *filler) free() int64 {
	f.t.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(filepath.Dir(f.path), &st); err != nil {
		f.t.Fatal(err)
	}
	return int64(st.Bavail) * int64(st.Bsize)
}

// leave takes up all but so many bytes.
func (f *filler) leave(n int64) {
	f.t.Helper()
	file, err := os.OpenFile(f.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		f.t.Fatal(err)
	}
	defer file.Close()
	for block := make([]byte, 64<<10); f.free() > n; {
		if _, err := file.Write(block[:min(int64(len(block)), max(1, f.free()-n))]); errors.Is(err, syscall.ENOSPC) {
			return
		} else if err != nil {
			f.t.Fatal(err)
		}
	}
}

func (f *filler) remove() {
	f.t.Helper()
	if err := os.Remove(f.path); err != nil {
		f.t.Fatal(err)
	}
}

// readiness is what /readyz says.
func readiness(t *testing.T, p *rig.Process) (int, rig.Object) {
	t.Helper()
	resp, err := http.Get("http://" + p.Admin + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var said rig.Object
	if err := json.NewDecoder(resp.Body).Decode(&said); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, said
}

// endsWithin tells whether the process ends by itself in a time.
func endsWithin(p *rig.Process, long time.Duration) bool {
	for late := time.Now().Add(long); time.Now().Before(late); time.Sleep(50 * time.Millisecond) {
		if _, err := p.Metrics(); err != nil {
			return true
		}
	}
	return false
}

// diskFull runs on a disk of which minFree bytes are to be kept free.
func diskFull(t *testing.T, disk string, minFree int64, toTheLast bool) {
	data := filepath.Join(disk, "data")
	fill := &filler{t, filepath.Join(disk, "filler")}
	partner := newCounter()
	server := rig.Serve(t, partner)
	conf := rig.Dev().With(rig.Config{"data": data, "log": rig.Config{"level": "info"},
		"journal": rig.Config{"minFreeDisk": minFree}})
	p := rig.New(t, binary, conf)
	p.Data = data
	if err := p.Begin(); err != nil {
		t.Fatalf("%v\n%s", err, p.Tail())
	}
	ep := p.Register(server+"/hook", nil)
	accepted := map[string]bool{}
	refused := 0
	publish := func(id string) rig.Answer {
		a, err := p.Send("POST", "/v1/events", "application/json", fmt.Appendf(nil, `{"tenant":"acme","id":%q,"type":"contact.updated","data":{"pad":"%0*d"}}`, id, 1000, 0))
		switch {
		case err == nil && a.Status == http.StatusOK:
			accepted[id] = true
		default:
			refused++
		}
		if err != nil {
			return rig.Answer{}
		}
		return a
	}
	for i := range 100 {
		if a := publish(fmt.Sprintf("room-%d", i)); a.Status != http.StatusOK {
			t.Fatalf("with room: %d %s", a.Status, a.Raw)
		}
	}
	p.AwaitCount("tenant=acme&state=DELIVERED&endpointId="+ep.ID, 100)
	if status, said := readiness(t, p); status != http.StatusOK {
		t.Errorf("readiness with room: %d %v", status, said)
	}

	// Below what is kept free: refused with a reason, and what was accepted goes on.
	p.MustAct(ep, "pause")
	for i := range 50 {
		publish(fmt.Sprintf("paused-%d", i))
	}
	fill.leave(minFree - 16<<20)
	var answer rig.Answer
	rig.Eventually(t, "events are refused", func() bool {
		answer = publish(fmt.Sprintf("short-%d", refused+len(accepted)))
		return answer.Status != http.StatusOK
	})
	if answer.Status != http.StatusTooManyRequests || !strings.Contains(answer.S("message"), "full") {
		t.Errorf("refused with %d %s", answer.Status, answer.Raw)
	}
	status, said := readiness(t, p)
	if status != http.StatusServiceUnavailable || !strings.HasPrefix(said.S("journal"), "full") {
		t.Errorf("readiness below what is kept free: %d %v", status, said)
	}
	p.MustAct(ep, "resume")
	p.AwaitCount("tenant=acme&state=DELIVERED&endpointId="+ep.ID, len(accepted))
	t.Logf("%d MiB free: %d events refused, the last with %q; readiness says %v; all %d accepted are delivered",
		fill.free()>>20, refused, answer.S("message"), said, len(accepted))
	fill.remove()
	rig.Eventually(t, "events are accepted again", func() bool { return publish(fmt.Sprintf("again-%d", refused+len(accepted))).Status == http.StatusOK })
	rig.Eventually(t, "readiness says so", func() bool { status, _ := readiness(t, p); return status == http.StatusOK })

	if toTheLast {
		p.MustAct(ep, "pause")
		for i := range 200 {
			publish(fmt.Sprintf("open-%d", i))
		}
		p.MustAct(ep, "resume")
		fill.leave(0)
		for i := range 50 {
			publish(fmt.Sprintf("none-%d", i))
		}
		before := len(accepted)
		ended := endsWithin(p, 20*time.Second)
		t.Logf("no byte free: %d accepted so far, %d refused; the process has ended: %v", before, refused, ended)
		fill.remove()
		if ended { // where the journal had to give up, as with events that were not written: a supervisor starts it again
			if err := p.End(); err == nil {
				t.Error("it ended well")
			}
			p.Restart(nil)
		}
		rig.Eventually(t, "events are accepted again", func() bool { return publish(fmt.Sprintf("last-%d", refused)).Status == http.StatusOK })
	}
	if a := publish("after"); a.Status != http.StatusOK {
		t.Errorf("once there is room: %d %s", a.Status, a.Raw)
	}
	missing := 0
	rig.Eventually(t, "every accepted event is delivered", func() bool {
		missing = 0
		for id := range accepted {
			if !partner.has("/hook", id) {
				missing++
			}
		}
		return missing == 0
	}, func() string { return fmt.Sprintf("%d of %d are not", missing, len(accepted)) })
	deliveries, twice, _ := partner.tally()
	t.Logf("%d accepted, %d refused, %d delivered, %d of them more than once, %d lost", len(accepted), refused, deliveries, twice, missing)
}
