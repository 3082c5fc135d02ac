package registry

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sealpost/sealpost/relay"
)

// Why the keys of a record cannot be changed as asked.
var (
	ErrRotating = errors.New("a rotation is under way")
	ErrNoNext   = errors.New("there is no next key")
	ErrClaim    = errors.New("nobody was shown the next key's secret")
	ErrNoKey    = errors.New("no such key")
	ErrOnlyKey  = errors.New("no other key could sign in its place")
)

// A record has one current key, the first, and at most one other: the next one, which waits for its time, or the previous one, until
// its overlap is over. The methods here are the only steps between such lists. They take the time as an argument and touch
// nothing else, so that each step is one write of the record: killed before it, the step was not taken and is taken again.

// Current is the key that signs; the zero Key where there is none.
func (r *Record) Current() Key {
	if len(r.Keys) == 0 {
		return Key{}
	}
	return r.Keys[0]
}

// Next is the key that waits to become the current one, if there is one.
func (r *Record) Next() (Key, bool) { return r.other(KeyNext) }

// Previous is the key that was replaced and is not dropped yet, if there is one.
func (r *Record) Previous() (Key, bool) { return r.other(KeyPrevious) }

func (r *Record) other(state KeyState) (Key, bool) {
	if len(r.Keys) < 2 || r.Keys[1].State != state {
		return Key{}, false
	}
	return r.Keys[1], true
}

// Replace makes k the only key: an emergency, or a rotation without overlap.
func (r *Record) Replace(k Key) {
	k.State = KeyCurrent
	r.Keys = []Key{k}
}

// Succeed makes k the current key now and keeps the one before for the overlap: for schemes that are signed with both. The error is
// ErrRotating where there are two keys already.
func (r *Record) Succeed(k Key, overlap time.Duration, now time.Time) error {
	if len(r.Keys) > 1 {
		return ErrRotating
	}
	old := r.Current()
	r.Replace(k)
	if old.ID != "" && overlap > 0 {
		r.Keys = append(r.Keys, previous(old, now.Add(overlap)))
	}
	return nil
}

// Announce makes k the next key, which becomes the current one an overlap from now, or earlier by Activate. The error is ErrRotating
// where there are two keys already.
func (r *Record) Announce(k Key, overlap time.Duration, now time.Time) error {
	if len(r.Keys) > 1 {
		return ErrRotating
	}
	k.State, k.ActivateTime, k.Overlap = KeyNext, now.Add(overlap), overlap
	r.Keys = append(slices.Clone(r.Keys), k)
	return nil
}

// Activate makes the next key the current one and keeps the one before for its overlap. The errors are ErrNoNext and ErrClaim.
func (r *Record) Activate(now time.Time) error {
	k, ok := r.Next()
	switch {
	case !ok:
		return ErrNoNext
	case k.Unclaimed:
		return ErrClaim
	}
	old, overlap := r.Current(), k.Overlap
	k.ActivateTime, k.Overlap = time.Time{}, 0
	r.Replace(k)
	if overlap > 0 {
		r.Keys = append(r.Keys, previous(old, now.Add(overlap)))
	}
	return nil
}

func previous(k Key, until time.Time) Key {
	k.State, k.ExpireTime, k.ActivateTime, k.Overlap, k.Unclaimed = KeyPrevious, until, time.Time{}, 0, false
	return k
}

// Claim notes that the next key's secret is shown to its receiver. The error is ErrNoNext where it is not there or was shown.
func (r *Record) Claim() (Key, error) {
	k, ok := r.Next()
	if !ok || !k.Unclaimed {
		return Key{}, ErrNoNext
	}
	r.Keys = slices.Clone(r.Keys)
	r.Keys[1].Unclaimed = false
	return k, nil
}

// Drop takes a key out: the other one, or the current one where the previous one can sign again. The errors are ErrNoKey and
// ErrOnlyKey.
func (r *Record) Drop(id string) error {
	i := slices.IndexFunc(r.Keys, func(k Key) bool { return k.ID == id })
	switch {
	case i < 0:
		return ErrNoKey
	case i > 0:
		r.Replace(r.Current())
		return nil
	}
	old, ok := r.Previous()
	if !ok {
		return ErrOnlyKey
	}
	old.ExpireTime = time.Time{}
	r.Replace(old)
	return nil
}

// Turn takes the step that is due by now, if one is, and says which.
func (r *Record) Turn(now time.Time) (step string) {
	if k, ok := r.Previous(); ok && !now.Before(k.ExpireTime) {
		r.Replace(r.Current())
		return "dropped " + k.ID
	}
	if k, ok := r.Next(); ok && !k.Unclaimed && !now.Before(k.ActivateTime) && r.Activate(now) == nil {
		return "activated " + k.ID
	}
	return ""
}

// Due tells whether the schedule asks for a new key by now: one overlap before the current one's life is over, so that the next one
// is known for that long before it signs.
func (r *Record) Due(now time.Time) bool {
	s := &r.Settings.Rotation
	if s.Every <= 0 || len(r.Keys) != 1 || !Rotates(r.State) {
		return false
	}
	return !now.Before(r.Current().CreateTime.Add(s.Every - s.OverlapOrDefault()))
}

// Overdue tells whether a key that the schedule made waits beyond its time for its secret to be claimed.
func (r *Record) Overdue(now time.Time) bool {
	k, ok := r.Next()
	return ok && k.Unclaimed && !now.Before(k.ActivateTime)
}

// Rotates tells whether endpoints in this state have their keys rotated by the schedule: those that were approved and not deleted.
func Rotates(s relay.EndpointState) bool {
	switch s {
	case relay.EndpointActive, relay.EndpointPaused, relay.EndpointSuspended, relay.EndpointContained:
		return true
	}
	return false
}

// checkKeys refuses lists that no step makes.
func (r *Record) checkKeys() error {
	for i, k := range r.Keys {
		if i == 0 && k.State != KeyCurrent || i == 1 && k.State != KeyNext && k.State != KeyPrevious || i > 1 {
			return fmt.Errorf("%w: key %d is %q", errRecord, i+1, k.State)
		}
	}
	return nil
}
