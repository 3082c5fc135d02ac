package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// observed is what a relay holds at a time.
type observed struct {
	open     float64 // deliveries
	index    float64 // bytes of the index of them, by its own metric
	events   float64 // bytes of the log of events, by its own metric
	heap     float64 // bytes, after a collection
	resident float64 // bytes of the process; 0 where the system does not tell
	disk     float64 // bytes of the data folder
}

// maxMetrics bounds what is read of a relay's metrics.
const maxMetrics = 8 << 20

// observe has the relay collect its garbage and looks at what is left.
func (p *relayProcess) observe(ctx context.Context) (observed, error) {
	if _, err := p.get(ctx, "/debug/pprof/heap?gc=1"); err != nil {
		return observed{}, err
	}
	m, err := p.metrics(ctx)
	if err != nil {
		return observed{}, err
	}
	o := observed{open: m["sealpost_deliveries_open"], index: m["sealpost_deliveries_open_bytes"],
		events: m["sealpost_journal_bytes EVENTS"], heap: m["go_memstats_heap_alloc_bytes"], resident: resident(p.pid())}
	o.disk, err = folderBytes(p.data)
	return o, err
}

// metrics are the sums of all series of each gauge and counter, and of those of the event logs.
func (p *relayProcess) metrics(ctx context.Context) (map[string]float64, error) {
	text, err := p.get(ctx, "/metrics")
	if err != nil {
		return nil, err
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("bench: metrics: %w", err)
	}
	out := map[string]float64{}
	for name, f := range families {
		for _, m := range f.GetMetric() {
			v := m.GetGauge().GetValue() + m.GetCounter().GetValue()
			out[name] += v
			for _, l := range m.GetLabel() {
				if l.GetName() == "stream" && strings.Contains(l.GetValue(), "_EVENTS_") {
					out[name+" EVENTS"] += v
				}
			}
		}
	}
	return out, nil
}

func (p *relayProcess) get(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.admin+path, nil)
	if err != nil {
		return "", err
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxMetrics))
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("bench: %s: status %d", path, answer.StatusCode)
	}
	return string(text), err
}

// awaitOpen waits until so many deliveries are open, and recorded as such.
func (p *relayProcess) awaitOpen(ctx context.Context, want int, say func(open float64)) error {
	moved, told, last := time.Now(), time.Now(), -1.0
	for {
		m, err := p.metrics(ctx)
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		open := m["sealpost_deliveries_open"]
		switch {
		case open == float64(want):
			return nil
		case open != last:
			moved, last = time.Now(), open
		case time.Since(moved) > patience:
			return fmt.Errorf("bench: %.0f deliveries are open, and not %d", open, want)
		}
		if time.Since(told) > progressEvery {
			told = time.Now()
			say(open)
		}
		sleep(ctx, 50*time.Millisecond)
	}
}

// viewPatience is how long the view may stand still while it lacks something.
const viewPatience = 15 * time.Second

// awaitView waits until the view has all outcomes: what it does belongs to a delivery.
func (p *relayProcess) awaitView(ctx context.Context) error {
	moved, last := time.Now(), -1.0
	for {
		m, err := p.metrics(ctx)
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		switch behind := m["sealpost_view_behind_outcomes"]; {
		case behind == 0:
			return nil
		case behind != last:
			moved, last = time.Now(), behind
		case time.Since(moved) > viewPatience:
			return fmt.Errorf("bench: the view lacks %.0f outcomes and does not go on", behind)
		}
		sleep(ctx, 50*time.Millisecond)
	}
}

// resident is what a process has in memory, in bytes; 0 where the system does not tell.
func resident(pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, _ := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 64)
			return kib * 1024
		}
	}
	return 0
}

// folderBytes are those of all files below a folder. Files that go meanwhile count as nothing.
func folderBytes(dir string) (total float64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err == nil {
			total += float64(info.Size())
		}
		return err
	})
	return total, err
}
