// Package store keeps the view: the queryable index of deliveries, in an embedded Pebble database or in Redis,
// both behind relay.Ledger and both held to it by storetest.
//
// It promises that a partition's position is never ahead of what was applied, whatever dies between two lines; that applying
// outcomes again changes nothing; that lists are in one order, and their page tokens right while deliveries come and
// change; and that no tenant's question is answered with another's deliveries. What it stores is derived: it
// may be deleted at any time, and is then rebuilt by its writer, which it tells with
// relay.ErrPositionLost. It trusts its one writer a partition and the disk or the Redis server, whose
// content it reads with bounds but does not authenticate: no decision to send rests on it.
package store

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/sealpost/sealpost/relay"
)

// Options are what a store needs besides its URL.
type Options struct {
	Logger *slog.Logger // nil: nothing is logged
}

// Open opens the view at a URL:
//
//	/var/lib/sealpost/view, embedded:///var/lib/sealpost/view    a folder for the embedded store, made if missing
//	redis://[user:password@]host[:port][/db]                     one Redis server, 6.0 or newer
//	rediss://...                                                 the same over TLS
//	redis+cluster://..., rediss+cluster://...                    a Redis Cluster; further nodes as addr=host:port
//
// Redis takes the parameters prefix (of all keys, "sealpost:" unless given), timeout (of each operation, such
// as 5s), and over TLS ca, cert and key (PEM files). Anything else is refused. The error never shows a password.
//
// A Redis that cannot be reached is no error, for the relay works without its view: each call tries again. One
// that refuses the password, or holds the data of a newer version, is.
func Open(ctx context.Context, url string, o Options) (relay.Ledger, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	a, err := parseAddress(url)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	if a.dir != "" {
		s, err := openEmbedded(a.dir, o.Logger)
		if err != nil {
			return nil, fmt.Errorf("store: %w", err)
		}
		return s, nil
	}
	s, err := openRedis(ctx, a, o.Logger)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return s, nil
}
