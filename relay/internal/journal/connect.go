package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// startTimeout bounds the recovery of the embedded server's streams where the
// caller's context has no deadline: a million events take about a second.
const startTimeout = 5 * time.Minute

// embed locks the data folder, keeps what is in it and starts the server there. The server listens on
// nothing, takes no signals and prints nothing.
func (j *Journal) embed(ctx context.Context, kept *guard) error {
	dir, err := filepath.Abs(j.opt.Dir)
	if err != nil {
		return fmt.Errorf("journal: data folder: %w", err)
	}
	j.opt.Dir = dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("journal: data folder: %w", err)
	}
	if j.lock, err = lockDir(dir); err != nil {
		return err
	}
	*kept = guard{dir: dir, fsync: j.opt.Fsync}
	if err := kept.begin(); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	opts := &server.Options{
		ServerName: "sealpost",
		DontListen: true,
		NoSigs:     true,
		NoLog:      true,
		JetStream:  true,
		StoreDir:   dir,
		// Streams reserve their byte bounds against this; the free disk is
		// watched by ourselves.
		JetStreamMaxStore:      1 << 60,
		JetStreamMaxMemory:     64 << 20,
		DisableJetStreamBanner: true,
		MaxPayload:             int32(j.opt.MaxEventBytes + payloadMargin),
		MaxPending:             256 << 20, // several of the largest events on their way to a reader
		NoSystemAccount:        true,
		// Answers wait for our own syncs, not for the server's; an earlier
		// background sync could only take an error away from us (see disk).
		SyncInterval: 2 * time.Minute,
	}
	if j.srv, err = server.NewServer(opts); err != nil {
		return fmt.Errorf("journal: embedded server: %w", err)
	}
	j.srv.SetLoggerV2(serverLog{j.log.With("part", "nats")}, false, false, false)
	j.srv.Start()
	deadline := time.Now().Add(startTimeout)
	for !j.srv.ReadyForConnections(50 * time.Millisecond) {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("journal: embedded server not ready: %w", err)
		}
		if !j.srv.Running() || time.Now().After(deadline) {
			return errors.New("journal: embedded server did not start")
		}
	}
	if !j.srv.JetStreamEnabled() {
		return errors.New("journal: embedded server could not open its store")
	}
	return nil
}

func (j *Journal) connect(ctx context.Context) (err error) {
	if j.pub, err = j.dial("sealpost journal writer", func() {
		for _, e := range j.events {
			e.disconnected()
		}
	}); err != nil {
		return err
	}
	if j.out, err = j.dial("sealpost journal owner", nil); err != nil {
		return err
	}
	if j.nc, err = j.dial("sealpost journal", j.disconnected); err != nil {
		return err
	}
	if j.js, err = jetstream.New(j.nc, j.apiTimeout()...); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if v := j.nc.ConnectedServerVersion(); !atLeast(v, minServer) {
		return fmt.Errorf("journal: NATS server %s is too old: %s or newer is needed", v, minServer)
	}
	ictx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if _, err = j.js.AccountInfo(ictx); errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
		return fmt.Errorf("journal: the NATS server has JetStream switched off: %w", err)
	} else if err != nil {
		return fmt.Errorf("journal: JetStream does not answer: %w", err)
	}
	max := int(min(j.pub.MaxPayload(), j.nc.MaxPayload()))
	j.limit = min(j.opt.MaxEventBytes, max-payloadMargin)
	if j.limit < 64<<10 && j.limit < j.opt.MaxEventBytes {
		return fmt.Errorf("journal: the NATS server's max_payload of %d bytes is too small: 128 KiB or more is needed", max)
	}
	return nil
}

// apiTimeout bounds what the client library asks by itself, as when it begins a watch.
func (j *Journal) apiTimeout() []jetstream.JetStreamOpt {
	if j.srv != nil {
		return nil
	}
	return []jetstream.JetStreamOpt{jetstream.WithDefaultTimeout(externalTimeout)}
}

// broken is closed when the connection that is there now, or comes next, breaks.
func (j *Journal) broken() <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.broke
}

func (j *Journal) disconnected() {
	j.mu.Lock()
	defer j.mu.Unlock()
	close(j.broke)
	j.broke = make(chan struct{})
}

func (j *Journal) dial(name string, lost func()) (*nats.Conn, error) {
	o := []nats.Option{
		nats.Name(name),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(250 * time.Millisecond),
		// What can't be sent now is refused now: the caller repeats it.
		nats.ReconnectBufSize(-1),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			j.log.Warn("NATS connection", "conn", name, "error", err)
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if lost != nil {
				lost()
			}
			if err != nil {
				j.log.Warn("NATS connection lost", "conn", name, "error", err)
			}
		}),
	}
	if j.srv != nil {
		o = append(o, nats.InProcessServer(j.srv))
	} else {
		// A way that is cut says nothing: it is found out by its silence.
		o = append(o, nats.PingInterval(time.Second), nats.MaxPingsOutstanding(3), nats.Timeout(2*time.Second))
	}
	if j.opt.Credentials != "" {
		o = append(o, nats.UserCredentials(j.opt.Credentials))
	}
	if j.opt.TLS != nil {
		o = append(o, nats.Secure(j.opt.TLS))
	}
	nc, err := nats.Connect(j.opt.URL, o...)
	if err != nil {
		return nil, fmt.Errorf("journal: connect to NATS: %w", err)
	}
	return nc, nil
}

// shutdown gives back what Open took, last first.
func (j *Journal) shutdown(ctx context.Context) error {
	var err error
	for _, l := range j.logs() {
		if l.disk != nil {
			l.disk.close()
		}
	}
	j.reach.end()
	if j.nc != nil {
		j.nc.Close()
	}
	for _, nc := range []*nats.Conn{j.out, j.pub} {
		if nc != nil {
			nc.Close()
		}
	}
	if j.srv != nil {
		down := make(chan struct{})
		go func() {
			j.srv.Shutdown()
			j.srv.WaitForShutdown()
			close(down)
		}()
		select {
		case <-down:
		case <-ctx.Done():
			err = fmt.Errorf("journal: embedded server still stopping: %w", ctx.Err())
		}
	}
	if j.lock != nil && err == nil {
		j.lock.Close() // gives up the lock; a server that still writes keeps it until the process ends
	}
	return err
}

func (j *Journal) logs() (all []*Log) {
	for _, e := range j.events {
		all = append(all, e.Log)
	}
	for _, o := range j.outcomes {
		all = append(all, o.Log)
	}
	if j.audit != nil {
		all = append(all, j.audit.Log)
	}
	all = append(all, j.saves...)
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, b := range j.buckets {
		all = append(all, b.log)
	}
	return all
}

// atLeast compares dotted versions; a suffix such as "-beta" is ignored.
func atLeast(have, want string) bool {
	h, w := version(have), version(want)
	for i := range h {
		if h[i] != w[i] {
			return h[i] > w[i]
		}
	}
	return true
}

func version(s string) (v [3]int) {
	s, _, _ = strings.Cut(s, "-")
	for i, part := range strings.SplitN(s, ".", 3) {
		v[i], _ = strconv.Atoi(part)
	}
	return v
}

// serverLog passes the embedded server's warnings and errors on; its notices are
// of no use to an operator of Sealpost.
type serverLog struct{ log *slog.Logger }

func (serverLog) Noticef(string, ...any) {}
func (serverLog) Debugf(string, ...any)  {}
func (serverLog) Tracef(string, ...any)  {}
func (l serverLog) Warnf(format string, v ...any) {
	// That large events are allowed is our choice, and no news at each start.
	if !strings.HasPrefix(format, "Maximum payloads over") {
		l.log.Warn(fmt.Sprintf(format, v...))
	}
}
func (l serverLog) Errorf(format string, v ...any) {
	l.log.Error(fmt.Sprintf(format, v...))
}
func (l serverLog) Fatalf(format string, v ...any) {
	l.log.Error(fmt.Sprintf(format, v...))
}
