// Package replay sends deliveries again that a filter names: a runner of package operation. It asks the view which they are and
// the partition's owner to reopen them, oldest first for each endpoint, no faster than was asked for and no more at a time than the
// owner lets in front of live traffic.
//
// It promises that each delivery that was settled as asked for when the replay began, and is kept, is sent again once: the
// view is believed only once it has every outcome that was recorded before it was asked, and a page that was read while the
// view was emptied is read again; a delivery that changed after the replay began is left alone, for it was sent again or ended since,
// so that a replay that goes on after kill -9 does not reopen what it had reopened. What was in flight at the kill may arrive twice,
// as at any kill. It promises that an endpoint that cannot be sent to, or is slow, holds only its own deliveries up. It trusts the
// owner's clock not to be set back by more than the replay has lasted, and the view to keep deliveries for as long as their events may be
// asked for; for the deliveries that are missing see missing.go.
package replay

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/operation"
	"github.com/sealpost/sealpost/relay/internal/partition"
	"github.com/sealpost/sealpost/relay/internal/record"
	"github.com/sealpost/sealpost/relay/internal/registry"
)

// Owner is the owner of a partition; partition.Owners tells what each method promises.
type Owner interface {
	Stand(ctx context.Context, partition int) (partition.Standing, error)
	Reopen(ctx context.Context, partition int, r partition.Reopening) (partition.ReopenAnswer, error)
}

// Options are what a Runner works with; all are required, but for those with a default.
type Options struct {
	Journal  *journal.Journal
	Registry *registry.Registry
	Ledger   relay.Ledger
	Owner    Owner
	// Whole returns once the view has a partition's outcomes up to a sequence; see ledger.Projector.
	Whole func(ctx context.Context, partition int, upTo uint64) (life uint64, err error)
	// Retention is for how long the view keeps what is settled.
	Retention time.Duration
	Now       func() time.Time // default time.Now
}

// Runner runs replays.
type Runner struct {
	Options
	mu      sync.Mutex
	missing map[string]bool // endpoints whose missing deliveries are looked for: one replay at a time
}

// New is a runner with the parts given.
func New(o Options) *Runner {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Runner{Options: o, missing: map[string]bool{}}
}

// cursor is where a replay goes on.
type cursor struct {
	// Begin is when it was begun, by the owner's clock: what changed since is left alone.
	Begin time.Time `json:"begin"`
	// Walks are the endpoints under way; Next is the highest that was begun, in the order of ids. Done tells that all were.
	Walks []*walk `json:"walks,omitempty"`
	Next  string  `json:"next,omitempty"`
	Done  bool    `json:"done,omitempty"`
	// Seq is the event up to which the missing were looked for.
	Seq uint64 `json:"seq,omitempty"`
}

// walk is the way through the deliveries of one endpoint.
type walk struct {
	Endpoint string `json:"endpoint"`
	// Page is the token of the page of Items and Token that of the next one; Begun tells that there was a first one.
	Page  string `json:"page,omitempty"`
	Token string `json:"token,omitempty"`
	Begun bool   `json:"begun,omitempty"`
	Items []item `json:"items,omitempty"`

	again time.Time // not before
}

func (w *walk) ended() bool { return w.Begun && len(w.Items) == 0 && w.Token == "" }

// putAway forgets the page, which is read again when its endpoint can have it.
func (w *walk) putAway() { w.Items, w.Token, w.Begun = nil, w.Page, w.Page != "" }

// item is a delivery that is to be reopened.
type item struct {
	ID       string `json:"id"`
	Seq      uint64 `json:"seq"`
	Attempts int    `json:"attempts"`
	Redacted int    `json:"redacted,omitempty"`
}

// run is one turn of a replay.
type run struct {
	*Runner
	job       *operation.Job
	asked     *relay.Replay
	partition int
	at        cursor
	progress  operation.Progress
	rate      *rate.Limiter
	// resumed are deliveries that a former turn may have reopened without having said so.
	resumed map[string]bool
	accept  map[string]time.Time // how far each walk has come, by endpoint
}

const (
	// pageSize is how many deliveries are looked up at once: what a kill makes the next turn look at again.
	pageSize = 100
	// walksAtOnce bounds the endpoints under way; of those that hold nobody up but themselves there can be as many.
	walksAtOnce = 64
	// closedAgain and fullAgain are how long an endpoint rests that cannot be sent to, or has enough.
	closedAgain = 500 * time.Millisecond
	fullAgain   = 5 * time.Millisecond
	// answerWithin bounds the owner's answer.
	answerWithin = 10 * time.Second
)

// Run is operation.Runner's.
func (r *Runner) Run(ctx context.Context, job *operation.Job) error {
	op := job.Operation()
	asked, err := record.DecodeReplay(op.Request)
	if err != nil {
		return &operation.Failure{Reason: "what it asks for cannot be read"}
	}
	t := &run{
		Runner: r, job: job, asked: asked, partition: r.Journal.Partition(asked.Tenant), progress: op.Progress,
		rate: rate.NewLimiter(rate.Limit(asked.Rate), max(1, int(asked.Rate/20))), resumed: map[string]bool{}, accept: map[string]time.Time{},
	}
	if len(op.Cursor) == 0 {
		t.at.Begin = r.Now().UTC()
		if err := job.Save(ctx, t.progress, t.cursor()); err != nil {
			return err
		}
	} else if err := json.Unmarshal(op.Cursor, &t.at); err != nil {
		return &operation.Failure{Reason: "where it goes on cannot be read"}
	}
	for _, w := range t.at.Walks {
		for _, i := range w.Items {
			t.resumed[i.ID] = true
		}
	}
	if len(asked.States) > 0 {
		if err := t.again(ctx); err != nil {
			return err
		}
	}
	if asked.Missing {
		return t.lookForMissing(ctx)
	}
	return nil
}

func (t *run) cursor() []byte {
	b, err := json.Marshal(&t.at)
	if err != nil {
		panic(err) // there is nothing in it that JSON lacks
	}
	return b
}

// again reopens the deliveries that ended as asked for: it takes turns among the endpoints, so that none waits for another.
func (t *run) again(ctx context.Context) error {
	for {
		t.beginWalks()
		if len(t.at.Walks) == 0 {
			return nil
		}
		rest := time.Duration(-1)
		for _, w := range t.at.Walks {
			if wait := time.Until(w.again); wait > 0 {
				if rest < 0 || wait < rest {
					rest = wait
				}
				continue
			}
			rest = 0
			if err := t.step(ctx, w); err != nil {
				return err
			}
		}
		t.at.Walks = slices.DeleteFunc(t.at.Walks, (*walk).ended)
		if err := t.pause(ctx, rest); err != nil {
			return err
		}
	}
}

// pause waits; a wait that is long is worth a word to callers.
func (t *run) pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// beginWalks begins with further endpoints where there is room. Those that hold themselves up make room for others.
func (t *run) beginWalks() {
	moving := 0
	for _, w := range t.at.Walks {
		if time.Until(w.again) < closedAgain/2 {
			moving++
		}
	}
	for moving < walksAtOnce && !t.at.Done {
		id := t.nextEndpoint()
		if t.at.Done = id == "" || t.asked.EndpointID != ""; id == "" {
			return
		}
		t.at.Next = id
		t.at.Walks = append(t.at.Walks, &walk{Endpoint: id})
		moving++
	}
}

// nextEndpoint is the next one of the tenant that is there and may be asked for; "" after the last.
func (t *run) nextEndpoint() string {
	if t.asked.EndpointID != "" {
		return t.asked.EndpointID
	}
	next := ""
	for ep := range t.Registry.Snapshot().All() {
		if ep.Tenant == t.asked.Tenant && ep.State != relay.EndpointDeleted && ep.ID > t.at.Next && (next == "" || ep.ID < next) {
			next = ep.ID
		}
	}
	return next
}

// step goes on with one endpoint: it reads the next page, or has the next deliveries reopened.
func (t *run) step(ctx context.Context, w *walk) error {
	if len(w.Items) == 0 {
		return t.turnPage(ctx, w)
	}
	if t.resumed[w.Items[0].ID] {
		return t.leaveResumed(ctx, w)
	}
	n, err := t.allowance(ctx, w)
	if err != nil {
		return err
	}
	asked := partition.Reopening{EndpointID: w.Endpoint}
	for _, i := range w.Items[:n] {
		asked.Items = append(asked.Items, partition.Ref{DeliveryID: i.ID, Seq: i.Seq, Attempts: i.Attempts, Redacted: i.Redacted})
	}
	taken, err := t.reopen(ctx, asked, w)
	if err != nil {
		return err
	}
	w.Items = w.Items[taken:]
	if taken == 0 {
		return nil
	}
	return t.note(ctx)
}

// allowance waits until the rate allows the next of a walk's items, and takes as many as it then does.
func (t *run) allowance(ctx context.Context, w *walk) (int, error) {
	n := min(len(w.Items), partition.MaxReopening, t.rate.Burst(), max(1, int(t.rate.Tokens())))
	if err := t.rate.WaitN(ctx, n); err != nil {
		return 0, cmp.Or(context.Cause(ctx), err)
	}
	return n, nil
}

// reopen hands deliveries to the owner and counts what became of those that it took; the others are given back to the rate.
func (t *run) reopen(ctx context.Context, asked partition.Reopening, w *walk) (int, error) {
	// What is asked for is done: its answer is heard also by one that is being cancelled, so that it is counted.
	hearing, stop := context.WithTimeout(context.WithoutCancel(ctx), answerWithin)
	defer stop()
	answer, err := t.Owner.Reopen(hearing, t.partition, asked)
	if err != nil {
		return 0, err
	}
	n := len(answer.Results)
	if left := len(asked.Items) - n; left > 0 {
		t.rate.AllowN(time.Now(), -left)
		w.again = time.Now().Add(fullAgain)
	}
	if answer.Closed != relay.ReasonNone {
		w.again = time.Now().Add(closedAgain)
		if len(t.at.Walks) > walksAtOnce {
			w.putAway() // so that the cursor stays small
		}
		return 0, t.job.Waits(ctx, fmt.Sprintf("endpoint %s takes nothing now: %s", asked.EndpointID, answer.Closed))
	}
	for _, what := range answer.Results {
		t.progress.Examined++
		if what == partition.ReopenedSent {
			t.progress.Done++
		} else {
			t.progress.Skipped++
		}
	}
	return n, nil
}

func (t *run) note(ctx context.Context) error { return t.job.Note(ctx, t.progress, t.cursor()) }

// leaveResumed takes off a walk's items those that a former turn reopened: it was ended between that and saying so.
func (t *run) leaveResumed(ctx context.Context, w *walk) error {
	if _, err := t.whole(ctx); err != nil {
		return err
	}
	left := make([]item, 0, len(w.Items))
	for _, i := range w.Items {
		d, err := t.Ledger.Delivery(ctx, t.asked.Tenant, i.ID)
		switch {
		case errors.Is(err, relay.ErrNotFound):
			t.progress.Skipped++
		case err != nil:
			return fmt.Errorf("view: %w", err)
		case !t.changed(&d):
			left = append(left, i)
			continue
		default:
			t.progress.Done++
		}
		t.progress.Examined++
	}
	for _, i := range w.Items {
		delete(t.resumed, i.ID)
	}
	w.Items = left
	return t.note(ctx)
}

// changed tells whether a delivery changed since the replay began.
func (t *run) changed(d *relay.DeliveryStatus) bool { return !d.Updated.Before(t.at.Begin) }

// whole returns once the view has all that is recorded.
func (t *run) whole(ctx context.Context) (life uint64, err error) {
	stand, err := t.Owner.Stand(ctx, t.partition)
	if err != nil {
		return 0, err
	}
	return t.seeAll(ctx, stand.Outcomes)
}

// viewWithin is after what time a view that is behind is told of.
const viewWithin = time.Second

// seeAll waits for the view to have a partition's outcomes up to a sequence, and says so where it takes long.
func (t *run) seeAll(ctx context.Context, upTo uint64) (life uint64, err error) {
	soon, cancel := context.WithTimeout(ctx, viewWithin)
	life, err = t.Whole(soon, t.partition, upTo)
	cancel()
	if err == nil || ctx.Err() != nil {
		return life, err
	}
	if err := t.job.Waits(ctx, "the view is being brought up to date"); err != nil {
		return 0, err
	}
	return t.Whole(ctx, t.partition, upTo)
}

// turnPage reads an endpoint's next page, from a view that has all that was recorded before.
func (t *run) turnPage(ctx context.Context, w *walk) error {
	q := relay.DeliveryQuery{
		Tenant: t.asked.Tenant, EndpointID: w.Endpoint, After: t.asked.After, Before: t.asked.Before, Oldest: true,
		PageSize: pageSize, PageToken: w.Token,
	}
	if len(t.asked.States) == 1 {
		q.State = t.asked.States[0]
	}
	if len(t.asked.EventTypes) == 1 {
		q.EventType = t.asked.EventTypes[0]
	}
	page, err := t.page(ctx, q)
	if errors.Is(err, relay.ErrPageToken) {
		// It is of a view of another form: what was reopened before is known by its time.
		w.Token, w.Begun = "", false
		return nil
	} else if err != nil {
		return err
	}
	w.Page, w.Token, w.Begun = w.Token, page.NextPageToken, true
	for i := range page.Deliveries {
		d := &page.Deliveries[i]
		switch {
		case !t.asked.WantsState(d.State) || !t.asked.WantsType(d.EventType):
		case t.changed(d):
			t.progress.Examined++
			t.progress.Skipped++
		default:
			w.Items = append(w.Items, item{ID: d.ID, Seq: d.Seq, Attempts: d.Attempts, Redacted: d.Redacted})
		}
	}
	if n := len(page.Deliveries); n > 0 {
		t.accept[w.Endpoint] = page.Deliveries[n-1].AcceptTime
	}
	t.progress.Fraction = t.fraction()
	if len(w.Items) == 0 {
		return t.note(ctx)
	}
	// Saved before the first of them is reopened, so that the next turn knows which may have been.
	return t.job.Save(ctx, t.progress, t.cursor())
}

// page is a page of a view that has all that was recorded before it was read, and was not emptied meanwhile.
func (t *run) page(ctx context.Context, q relay.DeliveryQuery) (relay.DeliveryPage, error) {
	for {
		stand, err := t.Owner.Stand(ctx, t.partition)
		if err != nil {
			return relay.DeliveryPage{}, err
		}
		before, err := t.seeAll(ctx, stand.Outcomes)
		if err != nil {
			return relay.DeliveryPage{}, err
		}
		page, err := t.Ledger.Deliveries(ctx, q)
		if err != nil {
			return page, fmt.Errorf("view: %w", err)
		}
		after, err := t.seeAll(ctx, stand.Outcomes)
		if err != nil || after == before {
			return page, err
		}
	}
}

// fraction is how far it has come: by time, as no view counts.
func (t *run) fraction() float64 {
	if t.asked.Missing {
		return 0
	}
	from := t.asked.After
	if from.IsZero() {
		from = t.at.Begin.Add(-t.Retention)
	}
	span, sum := t.asked.Before.Sub(from), 0.0
	if span <= 0 || len(t.at.Walks) == 0 {
		return t.progress.Fraction
	}
	for _, w := range t.at.Walks {
		sum += min(1, max(0, float64(t.accept[w.Endpoint].Sub(from))/float64(span)))
	}
	// It never goes back, and is 1 only at the end.
	return max(t.progress.Fraction, min(.99, sum/float64(len(t.at.Walks))))
}
