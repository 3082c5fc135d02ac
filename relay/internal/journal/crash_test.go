package journal

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// crashDir, in the environment, makes this test binary a process that publishes
// into that folder until it is killed, one line on standard output an answer.
const (
	crashDir    = "SEALPOST_JOURNAL_CRASH_DIR"
	checkpoints = 250 // they are numbered modulo this
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		if err := publishForever(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

func publishForever(dir string) error {
	ctx := context.Background()
	j, err := Open(ctx, Options{Dir: dir})
	if err != nil {
		return err
	}
	a, err := j.Outcomes(0).NewAppender(ctx)
	if err != nil {
		return err
	}
	run := strconv.FormatInt(time.Now().UnixNano(), 36)
	out := make(chan string, 10_000)
	var n atomic.Int64
	for range 32 {
		go func() {
			for {
				id := run + "." + strconv.FormatInt(n.Add(1), 10)
				r, err := j.Events(0).Accept(ctx, entry(id, "content of "+id))
				if err != nil {
					out <- "error " + err.Error()
					return
				}
				out <- fmt.Sprint("event ", r.Seq, " ", id)
			}
		}()
	}
	go func() {
		for i := uint64(1); ; i++ {
			seq, err := a.Append(ctx, fmt.Append(nil, "outcome ", a.Last()+1), fmt.Append(nil, "outcome ", a.Last()+2))
			if err == nil && i%50 == 0 {
				seq, err = a.Sync(ctx)
				out <- fmt.Sprint("outcome ", seq, " -")
			}
			if err != nil {
				out <- "error " + err.Error()
				return
			}
		}
	}()
	go func() {
		for i := byte(1); ; i++ {
			if err := j.SaveCheckpoint(ctx, 0, checkpoint(2<<20, i%checkpoints)); err != nil {
				out <- "error " + err.Error()
				return
			}
			out <- fmt.Sprint("checkpoint ", i%checkpoints, " -")
		}
	}()
	w := bufio.NewWriter(os.Stdout)
	for line := range out {
		fmt.Fprintln(w, line)
		if len(out) == 0 {
			w.Flush()
		}
	}
	return nil
}

// TestKill kills a publishing process at some moment, several times over one
// folder: all it had answered is there, in its place, and known as a repeat.
func TestKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	events := map[string]uint64{}
	for round := range 3 {
		var outcome uint64
		var saved byte
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), crashDir+"="+dir)
		cmd.Stderr = os.Stderr
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		before := len(events)
		for sc := bufio.NewScanner(stdout); sc.Scan(); {
			f := strings.Fields(sc.Text())
			if len(f) != 3 {
				if f[0] == "error" {
					t.Error(sc.Text())
				}
				continue // cut by the kill
			}
			n, err := strconv.ParseUint(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			switch f[0] {
			case "event":
				events[f[2]] = n
			case "outcome":
				outcome = n
			case "checkpoint":
				saved = byte(n)
			}
			if len(events) == before+2000*(round+1) {
				if err := cmd.Process.Kill(); err != nil { // SIGKILL
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the process ended by itself")
		}
		if len(events) < before+2000*(round+1) || outcome == 0 {
			t.Fatalf("%d events, %d outcomes before the kill", len(events)-before, outcome)
		}
		checkAfterKill(t, dir, events, outcome, saved)
	}
}

func checkAfterKill(t *testing.T, dir string, events map[string]uint64, outcome uint64, saved byte) {
	t.Helper()
	j := open(t, Options{Dir: dir})
	defer shut(t, j)
	there := map[uint64]string{}
	st, err := j.Events(0).State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Events(0).Range(t.Context(), 1, st.Last, func(m Message) error { there[m.Seq] = string(m.Payload); return nil }); err != nil {
		t.Fatal(err)
	}
	missing := 0
	for id, seq := range events {
		if there[seq] != "content of "+id {
			missing++
		}
	}
	if missing > 0 {
		t.Errorf("%d of %d answered events are missing", missing, len(events))
	}
	checked := 0
	for id, seq := range events {
		if r := mustAccept(t, j, id, "content of "+id); !r.Duplicate || r.Seq != seq {
			t.Errorf("repeat of %s at %d: %+v", id, seq, r)
		}
		if checked++; checked == 200 {
			break
		}
	}
	ost, err := j.Outcomes(0).State(t.Context())
	if err != nil || ost.Last < outcome || ost.First != 1 {
		t.Errorf("outcomes %+v, %v; %d were synced", ost, err, outcome)
	}
	err = j.Outcomes(0).Range(t.Context(), 1, ost.Last, func(m Message) error {
		if want := fmt.Sprint("outcome ", m.Seq); string(m.Payload) != want {
			return fmt.Errorf("%d holds %q", m.Seq, m.Payload)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	numbered := make([][]byte, checkpoints)
	for i := range numbered {
		numbered[i] = checkpoint(16, byte(i))
	}
	got, ok, err := j.LoadCheckpoint(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if ok {
		// The last one whose answer was read, or a later one.
		i := slices.IndexFunc(numbered, func(c []byte) bool { return bytes.Equal(c, got[:len(c)]) })
		if i < 0 || !bytes.Equal(got, checkpoint(2<<20, byte(i))) {
			t.Error("checkpoint is none that was saved")
		} else if later := (i - int(saved) + checkpoints) % checkpoints; later > checkpoints/2 {
			t.Errorf("checkpoint %d, after %d was confirmed", i, saved)
		}
	} else if saved > 0 {
		t.Errorf("checkpoint %d is missing", saved)
	}
}
