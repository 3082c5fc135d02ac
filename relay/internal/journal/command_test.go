package journal

import (
	"context"
	"errors"
	"testing"
)

func TestCommands(t *testing.T) {
	t.Parallel()
	j := open(t, Options{Dir: t.TempDir()})
	ctx := t.Context()
	if _, err := j.Request(ctx, "owner.0.pause", nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("request that nobody serves: %v", err)
	}
	entered := make(chan struct{}, 1)
	stop, err := j.Serve(ctx, "owner.0.pause", func(ctx context.Context, b []byte) []byte {
		if string(b) == "wait" {
			entered <- struct{}{}
			<-ctx.Done()
		}
		return append([]byte("re: "), b...)
	})
	if err != nil {
		t.Fatal(err)
	}
	waited := make(chan error, 1)
	go func() {
		b, err := j.Request(ctx, "owner.0.pause", []byte("wait"))
		if err == nil && string(b) != "re: wait" {
			err = errors.New(string(b))
		}
		waited <- err
	}()
	<-entered
	if b, err := j.Request(ctx, "owner.0.pause", []byte("hello")); err != nil || string(b) != "re: hello" {
		t.Errorf("answer %q, %v", b, err)
	}
	stop() // ends the handler's context and waits for its answer
	if err := <-waited; err != nil {
		t.Errorf("request under way: %v", err)
	}
	if _, err := j.Request(ctx, "owner.0.pause", nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("request after stop: %v", err)
	}
	for _, s := range []string{"", ".", "a.", "a..b", "*", "a.>", "a b", "ä"} {
		if _, err := j.Serve(ctx, s, nil); err == nil {
			t.Errorf("subject %q served", s)
		}
		if _, err := j.Request(ctx, s, nil); err == nil || errors.Is(err, ErrNotFound) {
			t.Errorf("subject %q asked: %v", s, err)
		}
	}
	if _, err := j.Request(ctx, "a", make([]byte, j.MaxEventBytes()+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("large request: %v", err)
	}
}
