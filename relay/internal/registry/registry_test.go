package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/keys"
	"github.com/sealpost/sealpost/signer"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func root(t testing.TB, fill byte) *keys.Root {
	t.Helper()
	r, err := keys.NewRoot(bytes.Repeat([]byte{fill}, keys.Size))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func openJournal(t testing.TB) *journal.Journal {
	t.Helper()
	j, err := journal.Open(t.Context(), journal.Options{Dir: t.TempDir(), MinFreeDisk: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close(context.Background()) })
	return j
}

func openBucket(t testing.TB, j *journal.Journal) *journal.Bucket {
	t.Helper()
	b, err := j.Bucket(t.Context(), BucketName)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func openRegistry(t testing.TB, b Bucket, s Sealer) *Registry {
	t.Helper()
	r, err := Open(t.Context(), b, s, Options{Now: func() time.Time { return start }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// testRecord is an active endpoint's, with a secret of each kind.
func testRecord(t testing.TB, s Sealer, tenant, id string, types ...string) *Record {
	t.Helper()
	vault := NewVault(s, tenant, id)
	key, err := signer.GenerateKey(signer.Standard)
	if err != nil {
		t.Fatal(err)
	}
	r := &Record{
		ID: id, Tenant: tenant, State: relay.EndpointActive, Registrant: "ann", Approver: "bob",
		CreateTime: start, UpdateTime: start, ApproveTime: start,
		Settings: Settings{
			URL: "https://hooks.partner.example/crm", Owner: "ops@partner.example", Purpose: "sync",
			EventTypes: types, Filter: "event.data.n > 1", Scheme: signer.Standard, ContentMode: relay.ContentEnvelope,
			Redaction:  relay.Redaction{Mode: relay.RedactionDenyListed, Drop: []string{"**.ssn"}, Pseudonymize: []string{"email"}},
			ChunkBytes: relay.DefaultChunkBytes, Concurrency: 8, Timeout: relay.DefaultTimeout, RetryFor: relay.DefaultRetryFor,
			TLS: relay.TLS{ClientCertificate: relay.ClientCertificateRequired},
		},
	}
	err = vault.Seal(Credentials{
		Headers:   []relay.Header{{Name: "X-Api-Key", Value: relay.NewSecret("recognisable-header")}},
		BasicUser: "user", BasicPass: relay.NewSecret("recognisable-password"), Bearer: relay.NewSecret("recognisable-bearer"),
	}, &r.Settings)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := vault.Key(key, start)
	if err != nil {
		t.Fatal(err)
	}
	r.Keys = []Key{sealed}
	return r
}

func TestWritesAreSeenAndSurvive(t *testing.T) {
	t.Parallel()
	b, k := openBucket(t, openJournal(t)), root(t, 1)
	r := openRegistry(t, b, k)
	ctx := t.Context()
	made, err := r.Create(ctx, testRecord(t, k, "acme", "ep_a", "contact.*"))
	if err != nil {
		t.Fatal(err)
	}
	if made.Err != nil || !made.Sendable() || made.Signer == nil || made.Redact == nil || made.Filter == nil {
		t.Fatalf("not compiled: %+v, %v", made, made.Err)
	}
	if made.Headers[0].Value.Reveal() != "recognisable-header" || made.BasicPass.Reveal() != "recognisable-password" ||
		made.Bearer.Reveal() != "recognisable-bearer" {
		t.Fatal("credentials were not opened")
	}
	if r.Snapshot().Revision() < made.Revision || r.Snapshot().Endpoint("ep_a") != made {
		t.Fatal("create returned before its snapshot")
	}
	if _, err := r.Create(ctx, testRecord(t, k, "acme", "ep_a", "*")); !errors.Is(err, ErrExists) {
		t.Fatalf("second create: %v", err)
	}
	paused, err := r.Change(ctx, "ep_a", made.Revision, func(rec *Record) error {
		rec.State, rec.Proposed = relay.EndpointPaused, &Proposal{Settings: rec.Settings, Author: "cy", Time: start}
		return nil
	})
	if err != nil || paused.State != relay.EndpointPaused || paused.Sendable() || paused.Revision <= made.Revision {
		t.Fatalf("change: %+v, %v", paused, err)
	}
	if _, err := r.Change(ctx, "ep_a", made.Revision, func(*Record) error { return nil }); !errors.Is(err, ErrStale) {
		t.Fatalf("stale change: %v", err)
	}
	refusal := errors.New("no")
	if _, err := r.Change(ctx, "ep_a", 0, func(*Record) error { return refusal }); !errors.Is(err, refusal) {
		t.Fatalf("refused change: %v", err)
	}
	if _, err := r.Change(ctx, "ep_none", 0, func(*Record) error { return nil }); !errors.Is(err, ErrNotFound) {
		t.Fatalf("unknown: %v", err)
	}
	again := openRegistry(t, b, k).Snapshot()
	e := again.Endpoint("ep_a")
	if e == nil || e.State != relay.EndpointPaused || e.Record.Proposed.Author != "cy" || again.Revision() != paused.Revision {
		t.Fatalf("after reopening: %+v", e)
	}
}

func TestRacingChangesLoseNothing(t *testing.T) {
	t.Parallel()
	b, k := openBucket(t, openJournal(t)), root(t, 1)
	r := openRegistry(t, b, k)
	if _, err := r.Create(t.Context(), testRecord(t, k, "acme", "ep_a", "*")); err != nil {
		t.Fatal(err)
	}
	const writers = 4
	errs := make(chan error, writers)
	for range writers {
		go func() {
			_, err := r.Change(t.Context(), "ep_a", 0, func(rec *Record) error { rec.Settings.Description += "x"; return nil })
			errs <- err
		}()
	}
	done := 0
	for range writers {
		switch err := <-errs; {
		case err == nil:
			done++
		case !errors.Is(err, ErrStale):
			t.Fatal(err)
		}
	}
	if got := r.Snapshot().Endpoint("ep_a").Description; len(got) != done || done == 0 {
		t.Fatalf("%d changes were confirmed, %d kept", done, len(got))
	}
}

func TestOtherProcessHears(t *testing.T) {
	t.Parallel()
	b, k := openBucket(t, openJournal(t)), root(t, 1)
	one, two := openRegistry(t, b, k), openRegistry(t, b, k)
	e, err := one.Create(t.Context(), testRecord(t, k, "acme", "ep_a", "*"))
	if err != nil {
		t.Fatal(err)
	}
	if err := two.Await(t.Context(), e.Revision); err != nil {
		t.Fatal(err)
	}
	if two.Snapshot().Endpoint("ep_a") == nil {
		t.Fatal("not heard")
	}
	for s := range two.Updates(t.Context()) {
		if s.Endpoint("ep_a") != nil {
			break
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := two.Await(ctx, e.Revision+1000); !errors.Is(err, context.Canceled) {
		t.Fatalf("await: %v", err)
	}
}

func TestChangeSharesTheRest(t *testing.T) {
	t.Parallel()
	b, k := openBucket(t, openJournal(t)), root(t, 1)
	r := openRegistry(t, b, k)
	for _, id := range []string{"ep_a", "ep_b"} {
		if _, err := r.Create(t.Context(), testRecord(t, k, "acme", id, "*")); err != nil {
			t.Fatal(err)
		}
	}
	before := r.Snapshot()
	if _, err := r.Change(t.Context(), "ep_a", 0, func(rec *Record) error { rec.State = relay.EndpointPaused; return nil }); err != nil {
		t.Fatal(err)
	}
	after := r.Snapshot()
	if after.Endpoint("ep_b") != before.Endpoint("ep_b") {
		t.Error("an endpoint that did not change was compiled again")
	}
	if before.Endpoint("ep_a").State != relay.EndpointActive || after.Endpoint("ep_a").State != relay.EndpointPaused {
		t.Error("the snapshot before was changed")
	}
}

func TestBrokenEndpointsStayAndAreNotSent(t *testing.T) {
	t.Parallel()
	k := root(t, 1)
	cases := []struct {
		name  string
		spoil func(*Record)
	}{
		{"filter", func(r *Record) { r.Settings.Filter = "event.data.(" }},
		{"redaction", func(r *Record) { r.Settings.Redaction.Mode = "SOME" }},
		{"no redaction mode", func(r *Record) { r.Settings.Redaction = relay.Redaction{} }},
		{"http outside dev", func(r *Record) { r.Settings.URL = "http://hooks.partner.example/" }},
		{"scheme", func(r *Record) { r.Settings.Scheme = "md5" }},
		{"no key", func(r *Record) { r.Keys = nil }},
		{"expired key", func(r *Record) { r.Keys[0].ExpireTime = start }},
		{"event type", func(r *Record) { r.Settings.EventTypes = []string{"Contact"} }},
		{"changed bearer", func(r *Record) { r.Settings.Bearer[len(r.Settings.Bearer)-1]++ }},
		{"key of another endpoint", func(r *Record) { r.Keys = testRecord(t, k, r.Tenant, "ep_other", "*").Keys }},
		{"header of another tenant", func(r *Record) { r.Settings.Headers = testRecord(t, k, "globex", r.ID, "*").Settings.Headers }},
		{"password in place of the bearer", func(r *Record) { r.Settings.Bearer = r.Settings.BasicPass }},
	}
	b := openBucket(t, openJournal(t))
	r := openRegistry(t, b, k)
	for i, c := range cases {
		record := testRecord(t, k, "acme", fmt.Sprintf("ep_%d", i), "*")
		c.spoil(record)
		e, err := r.Create(t.Context(), record)
		if err != nil {
			t.Fatal(c.name, err)
		}
		if e.Err == nil || e.Sendable() || e.Signer != nil || e.Redact != nil || e.State != relay.EndpointActive {
			t.Errorf("%s: err %v, sendable %v, signer %v", c.name, e.Err, e.Sendable(), e.Signer)
		}
		if e.Err != nil && strings.Contains(e.Err.Error(), "recognisable") {
			t.Errorf("%s: the error shows a secret: %v", c.name, e.Err)
		}
	}
	if _, err := b.Put(t.Context(), endpointKey+"ep_z", []byte("\x08\x63")); err != nil { // version 99
		t.Fatal(err)
	}
	other := openRegistry(t, b, root(t, 2)).Snapshot()
	if z := other.Endpoint("ep_z"); z == nil || z.Err == nil || z.Sendable() || z.Endpoint == nil {
		t.Errorf("record of another version: %+v", z)
	}
	for e := range other.All() {
		if e.Err == nil || e.Sendable() {
			t.Errorf("%s is sent to under another root key", e.ID)
		}
	}
}

func TestTombstonesAndPurge(t *testing.T) {
	t.Parallel()
	b, k := openBucket(t, openJournal(t)), root(t, 1)
	r := openRegistry(t, b, k)
	for _, id := range []string{"ep_a", "ep_b"} {
		if _, err := r.Create(t.Context(), testRecord(t, k, "acme", id, "contact.*")); err != nil {
			t.Fatal(err)
		}
	}
	e, err := r.Change(t.Context(), "ep_a", 0, func(rec *Record) error { rec.State = relay.EndpointDeleted; return nil })
	if err != nil || e.State != relay.EndpointDeleted {
		t.Fatal(e, err)
	}
	s := r.Snapshot()
	if got := ids(slices.Collect(s.Match("acme", "contact.updated"))); got != "ep_b" {
		t.Errorf("a tombstone matches: %s", got)
	}
	if got := ids(s.Tenant("acme")); got != "ep_a ep_b" {
		t.Errorf("the tenant's: %s", got)
	}
	if n, err := r.Purge(t.Context(), start); n != 0 || err != nil {
		t.Fatalf("purged too early: %d, %v", n, err)
	}
	if n, err := r.Purge(t.Context(), start.Add(time.Second)); n != 1 || err != nil {
		t.Fatalf("purge: %d, %v", n, err)
	}
	for s := range r.Updates(t.Context()) {
		if s.Endpoint("ep_a") == nil {
			break
		}
	}
	if openRegistry(t, b, k).Snapshot().Len() != 1 {
		t.Error("a purged endpoint is back")
	}
}

func TestLeaveDev(t *testing.T) {
	t.Parallel()
	b, k := openBucket(t, openJournal(t)), root(t, 1)
	r := openRegistry(t, b, k)
	ctx := t.Context()
	states := []relay.EndpointState{relay.EndpointActive, relay.EndpointPaused, relay.EndpointSuspended, relay.EndpointContained, relay.EndpointDeleted}
	for _, s := range states {
		rec := testRecord(t, k, "acme", "ep_"+strings.ToLower(string(s)), "*")
		rec.State = s
		if _, err := r.Create(ctx, rec); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := r.LeaveDev(ctx, start); n != 0 || err != nil {
		t.Fatalf("without a mark: %d, %v", n, err)
	}
	if err := r.MarkDev(ctx); err != nil {
		t.Fatal(err)
	}
	if n, err := r.LeaveDev(ctx, start); n != 4 || err != nil {
		t.Fatalf("leave: %d, %v", n, err)
	}
	want := map[string]relay.EndpointState{
		"ep_active": relay.EndpointPending, "ep_paused": relay.EndpointPending, "ep_suspended": relay.EndpointPending,
		"ep_contained": relay.EndpointContained, "ep_deleted": relay.EndpointDeleted,
	}
	for id, state := range want {
		e := r.Snapshot().Endpoint(id)
		if e.State != state || state != relay.EndpointDeleted && (!e.ApproveTime.IsZero() || e.Approver != "") {
			t.Errorf("%s: %s, approved %v by %q", id, e.State, e.ApproveTime, e.Approver)
		}
	}
	if marked, err := r.Dev(ctx); marked || err != nil {
		t.Errorf("mark: %v, %v", marked, err)
	}
}

// An unreadable record may be that of an active endpoint: the mark must stay, and start must be refused.
func TestLeaveDevNeedsEveryRecord(t *testing.T) {
	t.Parallel()
	b, k := openBucket(t, openJournal(t)), root(t, 1)
	r := openRegistry(t, b, k)
	if err := r.MarkDev(t.Context()); err != nil {
		t.Fatal(err)
	}
	revision, err := b.Put(t.Context(), endpointKey+"ep_z", []byte("\x08\x63"))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Await(t.Context(), revision); err != nil {
		t.Fatal(err)
	}
	if _, err := r.LeaveDev(t.Context(), start); err == nil {
		t.Fatal("left")
	}
	if marked, err := r.Dev(t.Context()); !marked || err != nil {
		t.Fatalf("mark: %v, %v", marked, err)
	}
}

// faultyBucket is a real one whose watch can be broken.
type faultyBucket struct {
	Bucket
	fault chan error
}

func (b faultyBucket) Watch(ctx context.Context, fn func(journal.Item) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case err := <-b.fault:
			cancel(err)
		case <-ctx.Done():
		}
	}()
	if err := b.Bucket.Watch(ctx, fn); ctx.Err() == nil {
		return err
	}
	return context.Cause(ctx)
}

func TestWatchIsBegunAgain(t *testing.T) {
	t.Parallel()
	b, k := openBucket(t, openJournal(t)), root(t, 1)
	faulty := faultyBucket{b, make(chan error)}
	r := openRegistry(t, faulty, k)
	gone, err := r.Create(t.Context(), testRecord(t, k, "acme", "ep_gone", "*"))
	if err != nil {
		t.Fatal(err)
	}
	faulty.fault <- errors.New("connection lost")
	if err := b.Delete(t.Context(), endpointKey+gone.ID, gone.Revision); err != nil {
		t.Fatal(err)
	}
	e, err := r.Create(t.Context(), testRecord(t, k, "acme", "ep_a", "*"))
	if err != nil || r.Snapshot().Endpoint("ep_a") != e {
		t.Fatalf("after the fault: %v", err)
	}
	if r.Snapshot().Endpoint("ep_gone") != nil {
		t.Error("an endpoint that went while the watch was broken is still there")
	}
	if err := r.Err(); err != nil {
		t.Errorf("heard again, but: %v", err)
	}
}

func ids(list []*Endpoint) string {
	var out []string
	for _, e := range list {
		out = append(out, e.ID)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func light(id, tenant string, state relay.EndpointState, patterns []string) *Endpoint {
	return &Endpoint{Endpoint: &relay.Endpoint{ID: id, Tenant: tenant, State: state, EventTypes: patterns}, patterns: minimal(patterns)}
}

// Whatever changes led to a snapshot, it matches what a look at every endpoint does.
func TestMatchIsALookAtAll(t *testing.T) {
	t.Parallel()
	segment := rapid.SampledFrom([]string{"a", "b", "c_1"})
	eventType := rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(segment, 1, 4).Draw(t, "segments"), ".")
	})
	pattern := rapid.Custom(func(t *rapid.T) string {
		switch rapid.IntRange(0, 5).Draw(t, "kind") {
		case 0:
			return "*"
		case 1, 2, 3:
			return eventType.Draw(t, "prefix") + ".*"
		}
		return eventType.Draw(t, "type")
	})
	rapid.Check(t, func(t *rapid.T) {
		s, model := &Snapshot{}, map[string]*Endpoint{}
		for step := range rapid.IntRange(1, 8).Draw(t, "steps") {
			changes := map[string]*Endpoint{}
			for range rapid.IntRange(1, 4).Draw(t, "changes") {
				id := rapid.SampledFrom([]string{"1", "2", "3", "4", "5"}).Draw(t, "id")
				if rapid.IntRange(0, 4).Draw(t, "gone") == 0 {
					changes[id] = nil
					delete(model, id)
					continue
				}
				state := rapid.SampledFrom([]relay.EndpointState{relay.EndpointActive, relay.EndpointPaused, relay.EndpointDeleted}).Draw(t, "state")
				tenant := rapid.SampledFrom([]string{"acme", "globex"}).Draw(t, "tenant")
				changes[id] = light(id, tenant, state, rapid.SliceOfN(pattern, 1, 4).Draw(t, "patterns"))
				model[id] = changes[id]
			}
			s = s.with(changes, nil, uint64(step+1))
		}
		for _, tenant := range []string{"acme", "globex", "none"} {
			ty := eventType.Draw(t, "event")
			var want, all []*Endpoint
			for _, e := range model {
				if e.Tenant != tenant {
					continue
				}
				all = append(all, e)
				matches := slices.ContainsFunc(e.EventTypes, func(p string) bool { return relay.MatchPattern(p, ty) })
				if matches != e.Matches(ty) {
					t.Fatalf("Matches(%q) of %v is %v", ty, e.EventTypes, !matches)
				}
				if matches && e.State != relay.EndpointDeleted {
					want = append(want, e)
				}
			}
			if got := ids(slices.Collect(s.Match(tenant, ty))); got != ids(want) {
				t.Fatalf("Match(%s, %s): %s, want %s", tenant, ty, got, ids(want))
			}
			if got := ids(s.Tenant(tenant)); got != ids(all) {
				t.Fatalf("Tenant(%s): %s, want %s", tenant, got, ids(all))
			}
		}
	})
}

func TestCovers(t *testing.T) {
	t.Parallel()
	cases := []struct {
		wide, narrow string
		want         bool
	}{
		{"*", "*", true}, {"*", "a.b", true}, {"*", "a.*", true}, {"a.*", "a.b", true}, {"a.*", "a.b.*", true}, {"a.*", "a.*", true},
		{"a.b", "a.b", true}, {"a.*", "a", false}, {"a.*", "*", false}, {"a.b", "a.*", false}, {"a.b.*", "a.*", false}, {"a.*", "ab.c", false},
		{"a.b", "a.b.c", false},
	}
	for _, c := range cases {
		if got := Covers(c.wide, c.narrow); got != c.want {
			t.Errorf("Covers(%s, %s) = %v", c.wide, c.narrow, got)
		}
	}
}

func TestPolicyHash(t *testing.T) {
	t.Parallel()
	base := relay.Redaction{Mode: relay.RedactionDenyListed, Drop: []string{"a", "b"}}
	others := []relay.Redaction{
		{Mode: relay.RedactionAllowListed, Drop: []string{"a", "b"}},
		{Mode: relay.RedactionDenyListed, Drop: []string{"ab"}},
		{Mode: relay.RedactionDenyListed, Drop: []string{"a"}, Pseudonymize: []string{"b"}},
		{Mode: relay.RedactionDenyListed, Allow: []string{"a", "b"}},
		{Mode: relay.RedactionDenyListed, Drop: []string{"a", "b"}, Mask: []relay.Mask{{Path: "c"}}},
		{Mode: relay.RedactionDenyListed, Drop: []string{"a", "b"}, Mask: []relay.Mask{{Path: "c", KeepLast: 1}}},
	}
	seen := map[[32]byte]bool{policyHash("acme", base, nil): true, policyHash("globex", base, nil): true}
	if len(seen) != 2 {
		t.Error("tenants share a hash, though not their pseudonyms")
	}
	for _, o := range others {
		h := policyHash("acme", o, nil)
		if seen[h] {
			t.Errorf("%+v has another policy's hash", o)
		}
		seen[h] = true
	}
	if policyHash("acme", base, nil) != policyHash("acme", relay.Redaction{Mode: base.Mode, Drop: []string{"a", "b"}}, nil) {
		t.Error("one policy has two hashes")
	}
	if policyHash("acme", base, nil) == policyHash("acme", base, []string{"a"}) {
		t.Error("a data scope does not count")
	}
}

func FuzzDecode(f *testing.F) {
	k := root(f, 1)
	rec := testRecord(f, k, "acme", "ep_a", "contact.*", "deal.won")
	rec.Proposed = &Proposal{Settings: rec.Settings, Author: "cy", Time: start}
	rec.RequestID, rec.RequestDigest = "r1", []byte("digest")
	data, err := encode(rec)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte{})
	f.Add([]byte("\x08\x63"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decode(data)
		if err != nil {
			if !errors.Is(err, errRecord) {
				t.Fatalf("unknown error: %v", err)
			}
			return
		}
		// What is read is written back as the same record.
		once, err := encode(r)
		if err != nil {
			return // larger than it was: an unusual encoding of a large one
		}
		back, err := decode(once)
		if err != nil {
			t.Fatalf("cannot read back: %v", err)
		}
		twice, err := encode(back)
		if err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("changes when written again: %v", err)
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		changes := map[string]*Endpoint{}
		for i := range n {
			patterns := []string{fmt.Sprintf("kind%d.*", i), fmt.Sprintf("other%d.created", i)}
			if i < 5 {
				patterns = append(patterns, "contact.*")
			}
			id := fmt.Sprintf("ep_%05d", i)
			changes[id] = light(id, "acme", relay.EndpointActive, patterns)
		}
		s := (&Snapshot{}).with(changes, nil, 1)
		b.Run(fmt.Sprintf("endpoints=%d/matches=5", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				found := 0
				for range s.Match("acme", "contact.updated") {
					found++
				}
				if found != 5 {
					b.Fatal(found)
				}
			}
		})
		b.Run(fmt.Sprintf("endpoints=%d/change", n), func(b *testing.B) {
			b.ReportAllocs()
			one := map[string]*Endpoint{"ep_00003": light("ep_00003", "acme", relay.EndpointPaused, []string{"contact.*"})}
			for b.Loop() {
				s.with(one, nil, 2)
			}
		})
	}
}
