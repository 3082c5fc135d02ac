package registry

import (
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/signer"
)

// TestKeySteps takes steps in any order and at any times. After each the list is one that can be stored and read again, a key signs,
// no key that nobody was shown ever does, and none that was dropped comes back.
func TestKeySteps(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		now, made := start, 0
		key := func() Key {
			made++
			return Key{ID: fmt.Sprintf("%016d", made), State: KeyCurrent, Secret: []byte("sealed"), CreateTime: now}
		}
		r := &Record{ID: "ep_a", Tenant: "acme", State: relay.EndpointActive, Keys: []Key{key()}}
		r.Settings.Rotation = relay.Rotation{Every: 30 * 24 * time.Hour}
		gone, unclaimed := map[string]bool{}, map[string]bool{}
		t.Repeat(map[string]func(*rapid.T){
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.Int64Range(0, int64(48*time.Hour)).Draw(t, "wait")))
			},
			"succeed": func(t *rapid.T) {
				two := len(r.Keys) > 1
				if err := r.Succeed(key(), time.Duration(rapid.IntRange(0, 2).Draw(t, "hours"))*time.Hour, now); two != errors.Is(err, ErrRotating) {
					t.Fatalf("succeed: %v", err)
				}
			},
			"announce": func(t *rapid.T) {
				k, two := key(), len(r.Keys) > 1
				k.Unclaimed = rapid.Bool().Draw(t, "unclaimed")
				unclaimed[k.ID] = k.Unclaimed
				if err := r.Announce(k, time.Hour, now); two != errors.Is(err, ErrRotating) {
					t.Fatalf("announce: %v", err)
				}
			},
			"claim": func(t *rapid.T) {
				if k, err := r.Claim(); err == nil {
					unclaimed[k.ID] = false
				}
			},
			"activate": func(t *rapid.T) { _ = r.Activate(now) },
			"turn":     func(t *rapid.T) { r.Turn(now) },
			"replace":  func(t *rapid.T) { r.Replace(key()) },
			"drop": func(t *rapid.T) {
				id := rapid.SampledFrom(r.Keys).Draw(t, "key").ID
				if r.Drop(id) == nil {
					gone[id] = true
				}
			},
			"": func(t *rapid.T) {
				if len(r.Keys) == 0 || r.Current().State != KeyCurrent || unclaimed[r.Current().ID] || r.checkKeys() != nil {
					t.Fatalf("keys %+v", r.Keys)
				}
				for _, k := range r.Keys {
					if gone[k.ID] {
						t.Fatalf("key %s was dropped and is back", k.ID)
					}
				}
				data, err := encode(r)
				if err != nil {
					t.Fatal(err)
				}
				if again, err := decode(data); err != nil || !reflect.DeepEqual(again.Keys, r.Keys) || again.Settings.Rotation != r.Settings.Rotation {
					t.Fatalf("stored and read: %v\n%+v\n%+v", err, r.Keys, again)
				}
			},
		})
	})
}

// TestTurn steps through a scheduled rotation at its times.
func TestTurn(t *testing.T) {
	t.Parallel()
	day := 24 * time.Hour
	r := &Record{State: relay.EndpointActive, Keys: []Key{{ID: "old", State: KeyCurrent, CreateTime: start}}}
	r.Settings.Rotation = relay.Rotation{Every: 10 * day, Overlap: 2 * day}
	for _, step := range []struct {
		day  float64
		due  bool
		turn string
		then func()
	}{
		{day: 7.9},
		{day: 8, due: true, then: func() {
			if err := r.Announce(Key{ID: "new", CreateTime: start.Add(8 * day), Unclaimed: true}, 2*day, start.Add(8*day)); err != nil {
				t.Fatal(err)
			}
		}},
		{day: 11}, // unclaimed: the old key goes on
		{day: 11, then: func() {
			if !r.Overdue(start.Add(11*day)) || r.Overdue(start.Add(9*day)) || !errors.Is(r.Activate(start), ErrClaim) {
				t.Error("a key that waits beyond its time is not found")
			}
			if _, err := r.Claim(); err != nil {
				t.Error(err)
			}
			if _, err := r.Claim(); !errors.Is(err, ErrNoNext) {
				t.Errorf("claimed twice: %v", err)
			}
		}},
		{day: 11, turn: "activated new"},
		{day: 12.9},
		{day: 13, turn: "dropped old"},
		{day: 15.9},
		{day: 16, due: true},
	} {
		now := start.Add(time.Duration(step.day * float64(day)))
		if due, turned := r.Due(now), r.Turn(now); due != step.due || turned != step.turn {
			t.Errorf("day %v: due %v, turned %q", step.day, due, turned)
		}
		if step.then != nil {
			step.then()
		}
	}
	for _, s := range []relay.EndpointState{relay.EndpointPending, relay.EndpointUnverified, relay.EndpointDeleted} {
		if r.State = s; r.Due(start.Add(100 * day)) {
			t.Errorf("rotated while %s", s)
		}
	}
}

// TestKeysInForce: the current key signs, the previous one beside it where the scheme carries two signatures, the next one never;
// and public halves are published of all that receivers may meet.
func TestKeysInForce(t *testing.T) {
	t.Parallel()
	b, k := openBucket(t, openJournal(t)), root(t, 1)
	reg := openRegistry(t, b, k)
	for _, scheme := range signer.Schemes() {
		id := "ep_" + string(scheme)
		rec := testRecord(t, k, "acme", id, "*")
		rec.Settings.Scheme = scheme
		var pairs []signer.Key
		var sealed []Key
		for range 2 {
			key, err := signer.GenerateKey(scheme)
			if err != nil {
				t.Fatal(err)
			}
			s, err := NewVault(k, "acme", id).Key(key, start)
			if err != nil {
				t.Fatal(err)
			}
			pairs, sealed = append(pairs, key), append(sealed, s)
		}
		rec.Keys = sealed[:1]
		if err := rec.Announce(sealed[1], time.Hour, start); err != nil {
			t.Fatal(err)
		}
		e, err := reg.Create(t.Context(), rec)
		if err != nil {
			t.Fatal(err)
		}
		signs := func(e *Endpoint, want ...signer.Key) {
			t.Helper()
			h, m := map[string][]string{}, signer.Message{ID: "dlv_1", Time: start, Method: "POST", URL: "https://x.example/", Body: []byte("{}")}
			if e.Err != nil {
				t.Fatal(e.Err)
			}
			if id, err := e.Signer.Sign(h, &m); err != nil || id != want[0].ID() {
				t.Fatalf("%s: signed by %s, %v", scheme, id, err)
			}
			for i, key := range pairs {
				v, err := signer.NewVerifier(scheme, []signer.VerifyingKey{key})
				if err != nil {
					t.Fatal(err)
				}
				_, err = v.Verify(h, signer.Request{Method: "POST", URL: m.URL, Body: m.Body}, start)
				expected := key.ID() == want[0].ID() || len(want) > 1 && key.ID() == want[1].ID()
				if (err == nil) != expected {
					t.Errorf("%s: key %d verifies: %v, expected %v", scheme, i, err, expected)
				}
			}
		}
		published := map[bool]int{true: 2, false: 0}[pairs[0].Asymmetric()]
		signs(e, pairs[0])
		if len(e.PublicKeys) != published {
			t.Errorf("%s: %d public keys with a next one", scheme, len(e.PublicKeys))
		}
		e, err = reg.Change(t.Context(), id, 0, func(r *Record) error { return r.Activate(start) })
		if err != nil {
			t.Fatal(err)
		}
		if scheme.Facts().CarriesTwoSignatures {
			signs(e, pairs[1], pairs[0])
		} else {
			signs(e, pairs[1])
		}
		if len(e.PublicKeys) != published {
			t.Errorf("%s: %d public keys with a previous one", scheme, len(e.PublicKeys))
		}
		e, err = reg.Change(t.Context(), id, 0, func(r *Record) error { r.Turn(start.Add(time.Hour)); return nil })
		if err != nil {
			t.Fatal(err)
		}
		signs(e, pairs[1])
		if len(e.PublicKeys) != published/2 || e.Holds(pairs[0].ID()) || !e.Holds(pairs[1].ID()) {
			t.Errorf("%s: the old key is still there", scheme)
		}
	}
}
