package store_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/store"
	"github.com/sealpost/sealpost/store/redistest"
	"github.com/sealpost/sealpost/store/storetest"
)

func open(t testing.TB, url string) relay.Ledger {
	t.Helper()
	l, err := store.Open(context.Background(), url, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestEmbedded(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	root := t.TempDir()
	storetest.Run(t, func(t testing.TB) storetest.Place {
		dir := filepath.Join(root, fmt.Sprint(n.Add(1)), "view")
		return func() relay.Ledger { return open(t, "embedded://"+dir) }
	})
}

// onRedis gives each test a prefix of its own on the same server.
func onRedis(url func(prefix string) string) func(testing.TB) storetest.Place {
	var n atomic.Int64
	return func(t testing.TB) storetest.Place {
		prefix := fmt.Sprintf("t%d:", n.Add(1))
		return func() relay.Ledger { return open(t, url(prefix)) }
	}
}

func TestRedis(t *testing.T) {
	t.Parallel()
	storetest.Run(t, onRedis(redistest.Start(t).URL))
}
