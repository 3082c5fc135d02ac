package store

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/sealpost/sealpost/relay"
)

//go:embed common.lua
var commonLua string

//go:embed apply.lua
var applyLua string

//go:embed trim.lua
var trimLua string

//go:embed position.lua
var positionLua string

// inRedis is the view in Redis. All keys of one tenant are in one slot, so that one script call changes them together;
// a partition's tenants and its position are in different slots of a cluster, where nothing is atomic. So a
// group is applied as: is the position where we left it; then the deliveries, by scripts that a second run does not
// change anything by; then, only if it still is, the position. Whatever dies or is emptied between two of these leaves the
// position behind the data or gone, never ahead of it, and the group is applied again.
//
// FLUSHALL takes the position with the data. In a cluster it empties one node only, as does a node that comes back
// without its disk: for that there are markers in many slots, so that each node has some. One that is missing while
// the position is not means a loss; then the position is removed too. What a cluster's failover loses of the last writes
// of one node (its replication is asynchronous) leaves no trace, and is not noticed.
type inRedis struct {
	client  redis.UniversalClient
	cluster *redis.ClusterClient // nil for one server
	prefix  string
	log     *slog.Logger
	apply   *redis.Script
	trim    *redis.Script
	move    *redis.Script
	ready   atomic.Bool // the schema was checked
	closed  atomic.Bool

	mu      sync.Mutex // guards the rest
	writers map[int]*redisWriter
	tenants map[string]bool // that are known to be in the set of tenants
}

// redisWriter is what this process knows of one partition. Its lock is held during Apply and Position.
type redisWriter struct {
	mu      sync.Mutex
	known   bool // seen is what was last answered
	seen    uint64
	checked time.Time // when the markers were last looked for
}

const (
	markers          = 512 // slots with a marker
	markersEvery     = 5 * time.Second
	maxKnownTenants  = 100_000
	changesPerScript = 100
	scriptsPerFlight = 50
)

func openRedis(ctx context.Context, a *address, log *slog.Logger) (*inRedis, error) {
	quiet := &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	s := &inRedis{
		prefix: a.prefix, log: log, writers: map[int]*redisWriter{}, tenants: map[string]bool{},
		apply: redis.NewScript(commonLua + applyLua), trim: redis.NewScript(commonLua + trimLua), move: redis.NewScript(positionLua),
	}
	if a.cluster {
		s.cluster = redis.NewClusterClient(&redis.ClusterOptions{
			Addrs: a.nodes, Username: a.user, Password: a.password, TLSConfig: a.tls, DisableIdentity: true,
			DialTimeout: a.timeout, DialerRetries: 1, ReadTimeout: a.timeout, WriteTimeout: a.timeout, ContextTimeoutEnabled: true,
			MaintNotificationsConfig: quiet,
		})
		s.client = s.cluster
	} else {
		s.client = redis.NewClient(&redis.Options{
			Addr: a.nodes[0], Username: a.user, Password: a.password, DB: a.db, TLSConfig: a.tls, DisableIdentity: true,
			DialTimeout: a.timeout, DialerRetries: 1, ReadTimeout: a.timeout, WriteTimeout: a.timeout, ContextTimeoutEnabled: true,
			MaintNotificationsConfig: quiet,
		})
	}
	first, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	err := s.enter(first)
	if err == nil {
		return s, nil
	}
	var refused redis.Error // an answer of the server, not the lack of one
	if errors.Is(err, errSchema) || errors.As(err, &refused) && !redis.IsLoadingError(err) && !redis.IsClusterDownError(err) && !redis.IsTryAgainError(err) {
		return nil, errors.Join(fmt.Errorf("open view in Redis at %s: %w", a, err), s.client.Close())
	}
	if ctx.Err() != nil {
		return nil, errors.Join(fmt.Errorf("open view in Redis at %s: %w", a, ctx.Err()), s.client.Close())
	}
	log.Warn("view: Redis cannot be reached; each call will try again", "address", a.String(), "error", err)
	return s, nil
}

// meta is a key that is no tenant's: no tenant's name begins with a colon.
func (s *inRedis) meta(name string) string { return s.prefix + "{:}" + name }

func (s *inRedis) positionKey(partition int) string {
	return s.meta("position:" + strconv.Itoa(partition))
}

// base begins the keys of a tenant.
func (s *inRedis) base(tenant string) string { return s.prefix + "{" + tenant + "}:" }

func (s *inRedis) markerKey(n int) string { return s.prefix + "{:" + strconv.Itoa(n) + "}marker" }

var errSchema = errors.New("has another schema")

// enter begins a call: the first one that reaches the server checks that this version can read what is there.
func (s *inRedis) enter(ctx context.Context) error {
	if s.closed.Load() {
		return errClosed
	}
	if s.ready.Load() {
		return nil
	}
	if err := s.checkSchema(ctx); err != nil {
		return err
	}
	s.checkPolicy(ctx)
	s.ready.Store(true)
	return nil
}

// checkSchema marks a new view. It asks again where the server was emptied between two commands.
func (s *inRedis) checkSchema(ctx context.Context) error {
	for range 10 {
		have, err := s.client.Get(ctx, s.meta("schema")).Result()
		switch {
		case err == nil && have == schemaVersion:
			return nil
		case err == nil:
			return fmt.Errorf("prefix %q %w: %.20q, and this version reads %s; use the version that wrote it, another prefix, or remove its keys", s.prefix, errSchema, have, schemaVersion)
		case !errors.Is(err, redis.Nil):
			return err
		}
		if err := s.client.SetNX(ctx, s.meta("schema"), schemaVersion, 0).Err(); err != nil {
			return err
		}
	}
	return errors.New("the server is emptied again and again")
}

// checkPolicy warns of a server that may throw away single keys. Not all servers tell.
func (s *inRedis) checkPolicy(ctx context.Context) {
	info, err := s.client.Info(ctx, "memory").Result()
	if err != nil {
		return
	}
	for line := range strings.Lines(info) {
		policy, found := strings.CutPrefix(strings.TrimSpace(line), "maxmemory_policy:")
		if found && policy != "noeviction" {
			s.log.Warn("view: Redis may evict single deliveries, which lists will then miss; set maxmemory-policy noeviction", "policy", policy)
		}
	}
}

func (s *inRedis) writer(partition int) *redisWriter {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.writers[partition]
	if w == nil {
		w = &redisWriter{}
		s.writers[partition] = w
	}
	return w
}

// Position is part of relay.Ledger.
func (s *inRedis) Position(ctx context.Context, partition int) (uint64, error) {
	w := s.writer(partition)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := s.enter(ctx); err != nil {
		return 0, fmt.Errorf("read position: %w", err)
	}
	if err := s.learn(ctx, partition, w); err != nil {
		return 0, fmt.Errorf("read position: %w", err)
	}
	return w.seen, nil
}

// learn reads the position; a partition of which a cluster lost a part begins again at 0.
func (s *inRedis) learn(ctx context.Context, partition int, w *redisWriter) error {
	w.known = false
	at, err := s.stored(ctx, partition)
	if err != nil {
		return err
	}
	if at > 0 {
		whole, err := s.whole(ctx, partition, w, true)
		if err != nil {
			return err
		}
		if !whole {
			at = 0
		}
	}
	w.known, w.seen = true, at
	return nil
}

func (s *inRedis) stored(ctx context.Context, partition int) (uint64, error) {
	text, err := s.client.Get(ctx, s.positionKey(partition)).Result()
	if errors.Is(err, redis.Nil) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	at, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("position of partition %d: %w", partition, errRecord)
	}
	return at, nil
}

// whole looks for the markers, at most each markersEvery unless now; where one is missing it removes the position.
func (s *inRedis) whole(ctx context.Context, partition int, w *redisWriter, now bool) (bool, error) {
	if s.cluster == nil || !now && time.Since(w.checked) < markersEvery {
		return true, nil
	}
	field := strconv.Itoa(partition)
	found := make([]*redis.BoolCmd, markers)
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for n := range found {
			found[n] = p.HExists(ctx, s.markerKey(n), field)
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	for _, one := range found {
		if !one.Val() {
			s.log.Warn("view: a node of the Redis cluster lost its data; the view is rebuilt", "partition", partition)
			s.forget()
			return false, s.client.Del(ctx, s.positionKey(partition)).Err()
		}
	}
	w.checked = time.Now()
	return true, nil
}

// begin prepares for a partition's first group: the schema, which FLUSHALL took too, and in a cluster the markers. The position
// is written as 0 before any delivery is, for a position that is missing cannot be told from one that was
// emptied together with the group's deliveries.
func (s *inRedis) begin(ctx context.Context, partition int) error {
	s.forget()
	if err := s.checkSchema(ctx); err != nil {
		return err
	}
	if err := s.client.SetNX(ctx, s.positionKey(partition), "0", 0).Err(); err != nil || s.cluster == nil {
		return err
	}
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for n := range markers {
			p.HSet(ctx, s.markerKey(n), strconv.Itoa(partition), "1")
		}
		return nil
	})
	return err
}

func (s *inRedis) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.tenants)
}

// Apply is part of relay.Ledger.
func (s *inRedis) Apply(ctx context.Context, partition int, upTo uint64, outcomes []relay.SequencedOutcome) error {
	w := s.writer(partition)
	w.mu.Lock()
	defer w.mu.Unlock()
	err := s.enter(ctx)
	if err == nil {
		err = s.applyGroup(ctx, partition, w, upTo, outcomes)
	}
	if errors.Is(err, relay.ErrPositionLost) {
		w.known = false
		s.forget()
		return err
	}
	if err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	return nil
}

func (s *inRedis) applyGroup(ctx context.Context, partition int, w *redisWriter, upTo uint64, outcomes []relay.SequencedOutcome) error {
	if !w.known {
		if err := s.learn(ctx, partition, w); err != nil {
			return err
		}
	} else if err := s.unmoved(ctx, partition, w); err != nil {
		return err
	}
	if upTo <= w.seen {
		return nil
	}
	changes, err := fold(partition, w.seen, upTo, outcomes)
	if err != nil {
		return err
	}
	if w.seen == 0 {
		if err := s.begin(ctx, partition); err != nil {
			return err
		}
	}
	if err := s.putTenants(ctx, changes); err != nil {
		return err
	}
	if err := s.put(ctx, changes); err != nil {
		return err
	}
	moved, err := s.move.Run(ctx, s.client, []string{s.positionKey(partition)}, strconv.FormatUint(w.seen, 10), strconv.FormatUint(upTo, 10)).Int()
	if err != nil {
		return err
	}
	if moved != 1 {
		return relay.ErrPositionLost
	}
	w.seen = upTo
	return nil
}

// unmoved is ErrPositionLost where the position is not the one last seen, or the cluster lost a part.
func (s *inRedis) unmoved(ctx context.Context, partition int, w *redisWriter) error {
	at, err := s.stored(ctx, partition)
	if err != nil {
		return err
	}
	if at != w.seen {
		return relay.ErrPositionLost
	}
	if at == 0 {
		return nil
	}
	whole, err := s.whole(ctx, partition, w, false)
	if err != nil {
		return err
	}
	if !whole {
		return relay.ErrPositionLost
	}
	return nil
}

// putTenants adds to the set of tenants those that are not known to be in it, before anything of theirs is written:
// a delivery that the operators' list or Trim cannot find must not be.
func (s *inRedis) putTenants(ctx context.Context, changes []change) error {
	fresh := map[string]bool{}
	s.mu.Lock()
	for i := range changes {
		if tenant := changes[i].last.Tenant; !s.tenants[tenant] {
			fresh[tenant] = true
		}
	}
	s.mu.Unlock()
	if len(fresh) == 0 {
		return nil
	}
	names := make([]any, 0, len(fresh))
	for tenant := range fresh {
		names = append(names, tenant)
	}
	if err := s.client.SAdd(ctx, s.meta("tenants"), names...).Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.tenants) > maxKnownTenants {
		clear(s.tenants)
	}
	for tenant := range fresh {
		s.tenants[tenant] = true
	}
	return nil
}

// put sends the changes: a script call for up to changesPerScript of a tenant, so that none holds up the server, and
// scriptsPerFlight calls at a time.
func (s *inRedis) put(ctx context.Context, changes []change) error {
	var calls []*scriptCall
	open := map[string]*scriptCall{}
	for i := range changes {
		c := &changes[i]
		base := s.base(c.last.Tenant)
		call := open[base]
		if call == nil || call.items >= changesPerScript {
			call = newScriptCall(base)
			open[base] = call
			calls = append(calls, call)
		}
		call.items++
		call.args = appendChange(call.args, c)
	}
	for len(calls) > 0 {
		n := min(len(calls), scriptsPerFlight)
		if _, err := s.run(ctx, s.apply, calls[:n]); err != nil {
			return err
		}
		calls = calls[n:]
	}
	return nil
}

func appendChange(args []any, c *change) []any {
	r := c.record()
	first, beside := c.split()
	r.first = first
	if len(beside) > relay.MaxAttemptsKept {
		beside = append(beside[:1:1], beside[len(beside)-maxBeside:]...)
	}
	retold := 0
	if c.retold {
		retold = 1
	}
	args = append(args, c.id, r.EndpointID, r.EventID, appendRecord(nil, &r), retold, maxBeside, len(beside))
	for _, a := range beside {
		args = append(args, a.number, a.data)
	}
	return args
}

// scriptCall is one call of a script on a tenant's keys.
type scriptCall struct {
	key   string // decides the slot
	args  []any
	items int
}

func newScriptCall(base string) *scriptCall {
	return &scriptCall{key: base + "t", args: []any{base}}
}

// run sends the calls in one flight. Those that a server answers with NOSCRIPT (it is new, or was started anew) are sent again
// with the script's text.
func (s *inRedis) run(ctx context.Context, script *redis.Script, calls []*scriptCall) ([]*redis.Cmd, error) {
	done := make([]*redis.Cmd, len(calls))
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, c := range calls {
			done[i] = p.EvalSha(ctx, script.Hash(), []string{c.key}, c.args...)
		}
		return nil
	})
	if err == nil {
		return done, nil
	}
	_, err = s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, c := range calls {
			switch err := done[i].Err(); {
			case err == nil:
			case redis.HasErrorPrefix(err, "NOSCRIPT"):
				done[i] = script.Eval(ctx, p, []string{c.key}, c.args...)
			default:
				return err
			}
		}
		return nil
	})
	return done, err
}

// Scrub is part of relay.Ledger. Nothing is left of an old value in the server's memory; what it wrote to its disk is its own.
func (s *inRedis) Scrub(ctx context.Context, _, _ time.Time) error { return s.enter(ctx) }

// Ping writes a key of its own and, in a cluster, reaches each node.
func (s *inRedis) Ping(ctx context.Context) error {
	err := s.enter(ctx)
	if err == nil {
		err = s.client.Set(ctx, s.meta("ping"), "1", time.Minute).Err()
	}
	if err == nil && s.cluster != nil {
		err = s.cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return c.Ping(ctx).Err() })
	}
	if err != nil {
		return fmt.Errorf("ping: %w", refusal(err))
	}
	return nil
}

// refusal marks what a server answered, as against one that did not answer. A server says OOM when it is at maxmemory and may evict
// nothing, and MISCONF when its disk takes no more snapshots.
func refusal(err error) error {
	var said redis.Error
	switch {
	case !errors.As(err, &said) && !errors.Is(err, errSchema):
		return err
	case redis.HasErrorPrefix(err, "OOM"), redis.HasErrorPrefix(err, "MISCONF"):
		return fmt.Errorf("%w: %w", relay.ErrViewFull, err)
	}
	return fmt.Errorf("%w: %w", relay.ErrViewRefuses, err)
}

// Close ends the connections; calls under way fail.
func (s *inRedis) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	return s.client.Close()
}

var _ relay.Ledger = (*inRedis)(nil)
