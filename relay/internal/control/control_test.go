package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"net/netip"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/audit"
	"github.com/sealpost/sealpost/relay/internal/egress"
	"github.com/sealpost/sealpost/relay/internal/erasure"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/keys"
	"github.com/sealpost/sealpost/relay/internal/operation"
	"github.com/sealpost/sealpost/relay/internal/registry"
)

// world is a door to real parts: journal, registry, access and audit. Only what another process or package answers for
// (owners, view, courier) is played by the test.
type world struct {
	*Control
	t       *testing.T
	journal *journal.Journal
	log     *lockedBuffer
	owners  *owners
	view    *view
	courier *courier
	audits  *auditStream
	broken  *atomic.Bool // the disk fails from here on
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// owners plays the partitions' owners: it notes what it is asked.
type owners struct {
	mu      sync.Mutex
	fail    error
	settled []uint64
	calls   []string
	onCall  func(string, DeliveryRef)
}

func (o *owners) Settle(_ context.Context, _ string, revision uint64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.settled = append(o.settled, revision)
	return o.fail
}

func (o *owners) note(call string, ref DeliveryRef) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.calls = append(o.calls, call+" "+ref.DeliveryID+" "+ref.EndpointID)
	if o.fail == nil && o.onCall != nil {
		o.onCall(call, ref)
	}
	return o.fail
}

func (o *owners) Retry(_ context.Context, ref DeliveryRef) error  { return o.note("retry", ref) }
func (o *owners) Cancel(_ context.Context, ref DeliveryRef) error { return o.note("cancel", ref) }

func (o *owners) Health(_ context.Context, tenant, id string) (relay.EndpointHealth, error) {
	return relay.EndpointHealth{InFlight: 3}, o.note("health", DeliveryRef{DeliveryID: tenant, EndpointID: id})
}

// view plays the ledger with a list.
type view struct {
	relay.Ledger // nil: what is not asked for panics
	deliveries   []relay.DeliveryStatus
	events       []relay.EventStatus
	outcomes     []*relay.Outcome
	between      func()
}

func (v *view) Delivery(_ context.Context, tenant, id string) (relay.DeliveryStatus, error) {
	for _, d := range v.deliveries {
		if d.Tenant == tenant && d.ID == id {
			return d, nil
		}
	}
	return relay.DeliveryStatus{}, relay.ErrNotFound
}

func (v *view) Deliveries(_ context.Context, q relay.DeliveryQuery) (page relay.DeliveryPage, err error) {
	from := 0
	if q.PageToken != "" {
		if from, err = strconv.Atoi(q.PageToken); err != nil {
			return page, relay.ErrPageToken
		}
	}
	for i, d := range v.deliveries[from:] {
		if q.PageSize > 0 && i == q.PageSize {
			page.NextPageToken = strconv.Itoa(from + i)
			break
		}
		if q.AllTenants || d.Tenant == q.Tenant {
			page.Deliveries = append(page.Deliveries, d)
		}
	}
	return page, nil
}

func (v *view) Event(_ context.Context, tenant, id string) (relay.EventStatus, error) {
	for _, e := range v.events {
		if e.Tenant == tenant && e.ID == id {
			return e, nil
		}
	}
	return relay.EventStatus{}, relay.ErrNotFound
}

func (v *view) Outcomes(context.Context) iter.Seq2[*relay.Outcome, error] {
	return func(yield func(*relay.Outcome, error) bool) {
		for i, o := range v.outcomes {
			if i > 0 && v.between != nil {
				v.between()
			}
			if !yield(o, nil) {
				return
			}
		}
	}
}

// courier plays the one who sends tests.
type courier struct{ tested []string }

func (c *courier) Test(_ context.Context, e *registry.Endpoint) (relay.Attempt, relay.Verdict, error) {
	c.tested = append(c.tested, e.ID)
	return relay.Attempt{Number: 1, StatusCode: 204}, relay.Verdict{Kind: relay.VerdictDone, Reason: relay.ReasonAccepted}, nil
}

// auditStream is the real one, and can be made to fail.
type auditStream struct {
	*journal.Audit
	fail atomic.Bool
}

func (a *auditStream) Append(ctx context.Context, b []byte) (uint64, error) {
	if a.fail.Load() {
		return 0, errors.New("audit disk is gone")
	}
	return a.Audit.Append(ctx, b)
}

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func newWorld(t *testing.T, change ...func(*Options, *journal.Options)) *world {
	t.Helper()
	w := &world{t: t, log: &lockedBuffer{}, owners: &owners{}, view: &view{}, courier: &courier{}, broken: &atomic.Bool{}}
	logger := slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	now := func() time.Time { return start }
	jo := journal.Options{Dir: t.TempDir(), MinFreeDisk: -1, Logger: logger, Fsync: func(f *os.File) error {
		if w.broken.Load() {
			return errors.New("injected: no sync")
		}
		return f.Sync()
	}}
	o := Options{
		Ledger: w.view, Owners: w.owners, Tester: w.courier, Feed: w.view, Guard: &egress.Guard{}, Now: now, Logger: logger, Onboarding: Onboarding{Off: true},
	}
	for _, f := range change {
		f(&o, &jo)
	}
	ctx := t.Context()
	var err error
	must := func() {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	w.journal, err = journal.Open(ctx, jo)
	must()
	t.Cleanup(func() { w.journal.Close(context.Background()) })
	root, err := keys.NewRoot(bytes.Repeat([]byte{7}, keys.Size))
	must()
	tokens, err := w.journal.Bucket(ctx, access.BucketName)
	must()
	endpoints, err := w.journal.Bucket(ctx, registry.BucketName)
	must()
	o.Journal, o.Sealer = w.journal, root
	o.Access, err = access.Open(ctx, tokens, access.Options{Now: now, Logger: logger})
	must()
	t.Cleanup(o.Access.Close)
	o.Registry, err = registry.Open(ctx, endpoints, root, registry.Options{Insecure: o.Dev, Now: now, Logger: logger})
	must()
	t.Cleanup(o.Registry.Close)
	kept, err := w.journal.Bucket(ctx, operation.BucketName)
	must()
	o.Operations, err = operation.Open(ctx, kept, operation.Options{Partition: w.journal.Partition, Now: now, Logger: logger})
	must()
	t.Cleanup(o.Operations.Close)
	tombstones, err := w.journal.Bucket(ctx, erasure.BucketName)
	must()
	o.Erasures, err = erasure.Open(ctx, tombstones, root, logger)
	must()
	t.Cleanup(o.Erasures.Close)
	w.audits = &auditStream{Audit: w.journal.Audit()}
	o.Audit = audit.New(w.audits, now)
	w.Control, err = New(o)
	must()
	return w
}

func dev(o *Options, _ *journal.Options) { o.Dev = true }

// caller is one with a real token.
func (w *world) caller(account string, role access.Role, tenant string) access.Caller {
	w.t.Helper()
	_, secret, err := w.Access.Create(w.t.Context(), access.Grant{Account: account, Role: role, Tenant: tenant})
	if err != nil {
		w.t.Fatal(err)
	}
	who, err := w.Access.Authenticate(w.t.Context(), access.Presented{Token: secret.Reveal(), Address: netip.MustParseAddr("192.0.2.7")})
	if err != nil {
		w.t.Fatal(err)
	}
	return who
}

func (w *world) records() (out []audit.Record) {
	w.t.Helper()
	st, err := w.audits.State(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for seq := max(st.First, 1); seq <= st.Last; seq++ {
		m, err := w.audits.Get(w.t.Context(), seq)
		if err != nil {
			w.t.Fatal(err)
		}
		r, err := audit.Decode(m.Payload)
		if err != nil {
			w.t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

// trail is the audit log in short: "act outcome", one for each record.
func (w *world) trail() []string {
	var out []string
	for _, r := range w.records() {
		out = append(out, r.Act+" "+string(r.Outcome))
	}
	return out
}

func goodSpec() Spec {
	return Spec{
		Tenant: "acme", URL: "https://hooks.partner.example/crm", Owner: "ops@partner.example", Purpose: "sync of contacts",
		EventTypes: []string{"contact.*"}, Environment: relay.Production, Redaction: relay.Redaction{Mode: relay.RedactionDenyListed, Drop: []string{"**.ssn"}},
	}
}

func (w *world) create(who access.Caller, change ...func(*Spec)) *registry.Endpoint {
	w.t.Helper()
	s := goodSpec()
	for _, f := range change {
		f(&s)
	}
	made, err := w.CreateEndpoint(w.t.Context(), who, s, "")
	if err != nil {
		w.t.Fatal(err)
	}
	return made.Endpoint
}

// active is an endpoint that bob approved.
func (w *world) active(who access.Caller, change ...func(*Spec)) *registry.Endpoint {
	w.t.Helper()
	e, err := w.ApproveEndpoint(w.t.Context(), w.caller("bob", access.Operator, ""), Ref{ID: w.create(who, change...).ID})
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

func isForbidden(err error) bool {
	var f *ForbiddenError
	return errors.As(err, &f)
}

func isState(err error) bool {
	var s *StateError
	return errors.As(err, &s)
}

// Every method, by somebody who has all but the scope, somebody of another tenant, and somebody who left.
func TestEveryMethodChecksItsCaller(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	ann := w.caller("ann", access.Partner, "acme")
	e := w.active(ann)
	ref := Ref{ID: e.ID}
	w.view.deliveries = []relay.DeliveryStatus{{ID: "dlv_1", Tenant: "acme", EndpointID: e.ID, State: relay.Parked}}
	w.view.events = []relay.EventStatus{{Tenant: "acme", ID: "evt_1"}}
	token, _, err := w.Access.Create(ctx, access.Grant{Account: "x", Role: access.Publisher, Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	replay, err := w.ReplayDeliveries(ctx, ann, relay.Replay{Tenant: "acme", EndpointID: e.ID}, "", "")
	if err != nil {
		t.Fatal(err)
	}
	methods := []struct {
		name  string
		scope access.Scope
		// foreign is what one of another tenant gets.
		foreign func(error) bool
		call    func(access.Caller) error
	}{
		{"PublishEvents", access.EventsPublish, isForbidden, func(c access.Caller) error {
			r, err := w.PublishEvents(ctx, c, []relay.Event{{Tenant: "acme", Type: "a.b", Data: []byte(`{}`)}})
			if err == nil {
				err = r[0].Err
			}
			return err
		}},
		{"PreviewEvent", access.EventsPreview, isForbidden, func(c access.Caller) error {
			_, _, err := w.PreviewEvent(ctx, c, relay.Event{Tenant: "acme", Type: "a.b", Data: []byte(`{}`)})
			return err
		}},
		{"GetEvent", access.EventsRead, nil, func(c access.Caller) error { _, err := w.GetEvent(ctx, c, "acme", "evt_1"); return err }},
		{"CreateEndpoint", access.EndpointsWrite, isForbidden, func(c access.Caller) error { _, err := w.CreateEndpoint(ctx, c, goodSpec(), ""); return err }},
		{"GetEndpoint", access.EndpointsRead, nil, func(c access.Caller) error { _, err := w.GetEndpoint(ctx, c, ref); return err }},
		{"ListEndpoints", access.EndpointsRead, isForbidden, func(c access.Caller) error {
			_, err := w.ListEndpoints(ctx, c, EndpointQuery{Tenant: "acme"})
			return err
		}},
		{"UpdateEndpoint", access.EndpointsWrite, nil, func(c access.Caller) error {
			_, err := w.UpdateEndpoint(ctx, c, ref, Spec{}, []string{"description"})
			return err
		}},
		{"PauseEndpoint", access.EndpointsOperate, nil, func(c access.Caller) error { _, err := w.PauseEndpoint(ctx, c, ref, ""); return err }},
		{"ContainEndpoint", access.IncidentsContain, nil, func(c access.Caller) error { _, err := w.ContainEndpoint(ctx, c, ref, "INC-42"); return err }},
		{"ReleaseEndpoint", access.IncidentsContain, nil, func(c access.Caller) error { _, err := w.ReleaseEndpoint(ctx, c, ref, "INC-42"); return err }},
		{"ResumeEndpoint", access.EndpointsOperate, nil, func(c access.Caller) error { _, err := w.ResumeEndpoint(ctx, c, ref); return err }},
		{"TestEndpoint", access.EndpointsOperate, nil, func(c access.Caller) error { _, _, err := w.TestEndpoint(ctx, c, ref); return err }},
		{"BackUp", access.SystemBackup, isForbidden, func(c access.Caller) error { return w.BackUp(ctx, c, io.Discard) }},
		{"EndpointHealth", access.EndpointsRead, nil, func(c access.Caller) error { _, _, err := w.EndpointHealth(ctx, c, ref); return err }},
		{"SuspendEndpoint", access.EndpointsApprove, nil, func(c access.Caller) error { _, err := w.SuspendEndpoint(ctx, c, ref, "x"); return err }},
		{"ApproveEndpoint", access.EndpointsApprove, nil, func(c access.Caller) error { _, err := w.ApproveEndpoint(ctx, c, ref); return err }},
		{"RejectEndpoint", access.EndpointsApprove, nil, func(c access.Caller) error { _, err := w.RejectEndpoint(ctx, c, ref, ""); return err }},
		{"ReplayDeliveries", access.DeliveriesSteer, isForbidden, func(c access.Caller) error {
			_, err := w.ReplayDeliveries(ctx, c, relay.Replay{Tenant: "acme", EndpointID: e.ID}, "", "same")
			return err
		}},
		{"GetOperation", access.DeliveriesRead, nil, func(c access.Caller) error { _, err := w.GetOperation(ctx, c, "", replay.ID); return err }},
		{"ListOperations", access.DeliveriesRead, isForbidden, func(c access.Caller) error {
			_, err := w.ListOperations(ctx, c, OperationQuery{Tenant: "acme"})
			return err
		}},
		{"CancelOperation", access.DeliveriesSteer, nil, func(c access.Caller) error { _, err := w.CancelOperation(ctx, c, "", replay.ID); return err }},
		{"EraseSubject", access.EventsErase, isForbidden, func(c access.Caller) error {
			_, err := w.EraseSubject(ctx, c, Erasure{Tenant: "acme", Subject: "contact/42", Reason: "ticket 7", RequestID: "same"})
			return err
		}},
		{"ListDeliveries", access.DeliveriesRead, isForbidden, func(c access.Caller) error {
			_, err := w.ListDeliveries(ctx, c, relay.DeliveryQuery{Tenant: "acme"})
			return err
		}},
		{"GetDelivery", access.DeliveriesRead, nil, func(c access.Caller) error { _, err := w.GetDelivery(ctx, c, "", "dlv_1"); return err }},
		{"WatchDeliveries", access.DeliveriesRead, isForbidden, func(c access.Caller) error {
			return w.WatchDeliveries(ctx, c, relay.DeliveryQuery{Tenant: "acme"}, func(*relay.Outcome) error { return nil })
		}},
		{"RetryDelivery", access.DeliveriesSteer, nil, func(c access.Caller) error { _, err := w.RetryDelivery(ctx, c, "acme", "dlv_1"); return err }},
		{"CancelDelivery", access.DeliveriesSteer, nil, func(c access.Caller) error { _, err := w.CancelDelivery(ctx, c, "", "dlv_1"); return err }},
		{"CreateToken", access.TokensWrite, isForbidden, func(c access.Caller) error {
			_, _, err := w.CreateToken(ctx, c, access.Grant{Account: "y", Role: access.Partner, Tenant: "acme"})
			return err
		}},
		{"ListTokens", access.TokensRead, isForbidden, func(c access.Caller) error { _, err := w.ListTokens(ctx, c, TokenQuery{Tenant: "acme"}); return err }},
		{"RotateToken", access.TokensWrite, nil, func(c access.Caller) error { _, err := w.RotateToken(ctx, c, "", token.ID, time.Hour); return err }},
		{"CreateAccount", access.AccountsWrite, isForbidden, func(c access.Caller) error {
			_, err := w.CreateAccount(ctx, c, access.Account{Name: "z", Role: access.Partner, Tenant: "acme"})
			return err
		}},
		{"GetAccount", access.AccountsRead, isForbidden, func(c access.Caller) error { _, err := w.GetAccount(ctx, c, "acme", token.Account); return err }},
		{"ListAccounts", access.AccountsRead, isForbidden, func(c access.Caller) error {
			_, err := w.ListAccounts(ctx, c, AccountQuery{Tenant: "acme"})
			return err
		}},
		{"SetAccountDisabled", access.AccountsDisable, isForbidden, func(c access.Caller) error {
			_, err := w.SetAccountDisabled(ctx, c, "acme", token.Account, "", true)
			return err
		}},
		{"SetAccountDisabled false", access.AccountsWrite, isForbidden, func(c access.Caller) error {
			_, err := w.SetAccountDisabled(ctx, c, "acme", token.Account, "", false)
			return err
		}},
		{"IssueCertificate", access.TokensWrite, isForbidden, func(c access.Caller) error {
			_, err := w.IssueCertificate(ctx, c, CertificateRequest{Account: token.Account, Tenant: "acme"})
			return err
		}},
		{"MapCertificate", access.TokensWrite, isForbidden, func(c access.Caller) error {
			_, err := w.MapCertificate(ctx, c, access.Certificate{Account: token.Account, Tenant: "acme", SHA256: strings.Repeat("ab", 32)})
			return err
		}},
		{"ListCertificates", access.TokensRead, isForbidden, func(c access.Caller) error {
			_, err := w.ListCertificates(ctx, c, TokenQuery{Tenant: "acme"})
			return err
		}},
		{"RevokeToken", access.TokensRevoke, nil, func(c access.Caller) error { _, err := w.RevokeToken(ctx, c, "", token.ID); return err }},
		{"RotateSecret", access.EndpointsWrite, nil, func(c access.Caller) error {
			_, err := w.RotateSecret(ctx, c, ref, Rotation{Revoke: true})
			return err
		}},
		{"ActivateSecret", access.EndpointsWrite, nil, func(c access.Caller) error { _, err := w.ActivateSecret(ctx, c, ref); return err }},
		{"ClaimSecret", access.EndpointsWrite, nil, func(c access.Caller) error { _, err := w.ClaimSecret(ctx, c, ref); return err }},
		{"RevokeSecret", access.EndpointsWrite, nil, func(c access.Caller) error {
			_, err := w.RevokeSecret(ctx, c, ref, w.Registry.Snapshot().Endpoint(e.ID).CurrentKey(), "")
			return err
		}},
		{"RotateClientCertificate", access.EndpointsWrite, nil, func(c access.Caller) error {
			_, err := w.RotateClientCertificate(ctx, c, ref, "")
			return err
		}},
		{"DeleteEndpoint", access.EndpointsWrite, nil, func(c access.Caller) error { _, err := w.DeleteEndpoint(ctx, c, ref); return err }},
	}
	full := w.caller("op", access.Operator, "")
	foreign := w.caller("eve", access.Operator, "globex")
	left := w.caller("gone", access.Operator, "")
	if _, err := w.Access.Revoke(ctx, left.CredentialID); err != nil {
		t.Fatal(err)
	}
	before := e.Revision
	for _, m := range methods {
		bare := full
		bare.Scopes = slices.DeleteFunc(slices.Clone(full.Scopes), func(s access.Scope) bool { return s == m.scope })
		var f *ForbiddenError
		if err := m.call(bare); !errors.As(err, &f) || f.Scope != m.scope {
			t.Errorf("%s without its scope: %v", m.name, err)
		}
		if err := m.call(access.Caller{}); !isForbidden(err) {
			t.Errorf("%s by nobody: %v", m.name, err)
		}
		if err := m.call(left); !errors.Is(err, ErrUnauthenticated) {
			t.Errorf("%s with a revoked token: %v", m.name, err)
		}
		ok := m.foreign
		if ok == nil {
			ok = func(err error) bool { return errors.Is(err, ErrNotFound) && !isForbidden(err) }
		}
		if err := m.call(foreign); !ok(err) {
			t.Errorf("%s from another tenant: %v", m.name, err)
		}
	}
	if now := w.Registry.Snapshot().Endpoint(e.ID); now.Revision != before {
		t.Error("somebody refused changed the endpoint")
	}
	if len(w.owners.calls) != 0 || len(w.courier.tested) != 0 {
		t.Errorf("somebody refused reached %v %v", w.owners.calls, w.courier.tested)
	}
	for _, m := range methods { // the calls themselves are good: it is the caller that was refused
		if err := m.call(full); err != nil && !isState(err) {
			t.Errorf("%s by an operator: %v", m.name, err)
		}
	}
}

func TestPartnersSeeTheirOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	ann, eve := w.caller("ann", access.Partner, "acme"), w.caller("eve", access.Partner, "acme")
	mine, hers := w.active(ann), w.active(eve)
	w.view.deliveries = []relay.DeliveryStatus{
		{ID: "dlv_1", Tenant: "acme", EndpointID: mine.ID}, {ID: "dlv_2", Tenant: "acme", EndpointID: hers.ID},
	}
	w.view.outcomes = []*relay.Outcome{
		{DeliveryID: "dlv_1", Tenant: "acme", EndpointID: mine.ID}, {DeliveryID: "dlv_2", Tenant: "acme", EndpointID: hers.ID},
		{Tenant: "acme", State: relay.Unmatched},
	}
	if _, err := w.PauseEndpoint(ctx, ann, Ref{ID: hers.ID}, ""); !errors.Is(err, ErrNotFound) {
		t.Errorf("another's endpoint: %v", err)
	}
	list, err := w.ListEndpoints(ctx, ann, EndpointQuery{})
	if err != nil || len(list.Endpoints) != 1 || list.Endpoints[0].ID != mine.ID {
		t.Errorf("list: %+v, %v", list, err)
	}
	page, err := w.ListDeliveries(ctx, ann, relay.DeliveryQuery{})
	if err != nil || len(page.Deliveries) != 1 || page.Deliveries[0].ID != "dlv_1" {
		t.Errorf("deliveries: %+v, %v", page, err)
	}
	if _, err := w.GetDelivery(ctx, ann, "", "dlv_2"); !errors.Is(err, ErrNotFound) {
		t.Errorf("another's delivery: %v", err)
	}
	var seen []string
	err = w.WatchDeliveries(ctx, ann, relay.DeliveryQuery{}, func(o *relay.Outcome) error { seen = append(seen, o.DeliveryID); return nil })
	if err != nil || strings.Join(seen, " ") != "dlv_1" {
		t.Errorf("watched %v, %v", seen, err)
	}
	w.view.between = func() { w.Access.Revoke(ctx, ann.CredentialID) }
	err = w.WatchDeliveries(ctx, ann, relay.DeliveryQuery{}, func(*relay.Outcome) error { return nil })
	if !errors.Is(err, ErrUnauthenticated) {
		t.Errorf("watching on after revocation: %v", err)
	}
}

// A partner's pages are full although most deliveries of its tenant are others'.
func TestPartnersPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ann, eve := w.caller("ann", access.Partner, "acme"), w.caller("eve", access.Partner, "acme")
	mine, hers := w.active(ann), w.active(eve)
	for i := range 70 {
		d := relay.DeliveryStatus{ID: fmt.Sprint("dlv_", i), Tenant: "acme", EndpointID: hers.ID}
		if i%7 == 3 {
			d.EndpointID = mine.ID
		}
		w.view.deliveries = append(w.view.deliveries, d)
	}
	q, sizes, seen := relay.DeliveryQuery{PageSize: 4}, []int{}, map[string]bool{}
	for {
		page, err := w.ListDeliveries(t.Context(), ann, q)
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, len(page.Deliveries))
		for _, d := range page.Deliveries {
			seen[d.ID] = true
		}
		if q.PageToken = page.NextPageToken; q.PageToken == "" {
			break
		}
	}
	if !slices.Equal(sizes, []int{4, 4, 2}) || len(seen) != 10 {
		t.Errorf("pages of %v, %d deliveries", sizes, len(seen))
	}
	// Where there are none of its own, a page costs no more than so many looks.
	w.view.deliveries = slices.Repeat([]relay.DeliveryStatus{{ID: "dlv_x", Tenant: "acme", EndpointID: hers.ID}}, 1000)
	if page, err := w.ListDeliveries(t.Context(), ann, relay.DeliveryQuery{PageSize: 4}); err != nil || page.NextPageToken != fmt.Sprint(4*lookedThrough) {
		t.Errorf("%+v, %v", page, err)
	}
}

func TestNoAuditNoAct(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	ann, op := w.caller("ann", access.Partner, "acme"), w.caller("op", access.Operator, "")
	e := w.active(ann)
	w.view.deliveries = []relay.DeliveryStatus{{ID: "dlv_1", Tenant: "acme", EndpointID: e.ID, State: relay.Parked}}
	w.view.events = []relay.EventStatus{{Tenant: "acme", ID: "evt_1"}}
	tokens := len(w.Access.List())
	w.audits.fail.Store(true)
	acts := map[string]func() error{
		"create": func() error { _, err := w.CreateEndpoint(ctx, ann, goodSpec(), ""); return err },
		"update": func() error {
			_, err := w.UpdateEndpoint(ctx, ann, Ref{ID: e.ID}, Spec{Description: "x"}, []string{"description"})
			return err
		},
		"pause":   func() error { _, err := w.PauseEndpoint(ctx, ann, Ref{ID: e.ID}, ""); return err },
		"contain": func() error { _, err := w.ContainEndpoint(ctx, op, Ref{ID: e.ID}, "INC-42"); return err },
		"suspend": func() error { _, err := w.SuspendEndpoint(ctx, Relay(), Ref{ID: e.ID}, "gone"); return err },
		"delete":  func() error { _, err := w.DeleteEndpoint(ctx, ann, Ref{ID: e.ID}); return err },
		"test":    func() error { _, _, err := w.TestEndpoint(ctx, ann, Ref{ID: e.ID}); return err },
		"retry":   func() error { _, err := w.RetryDelivery(ctx, op, "", "dlv_1"); return err },
		"cancel":  func() error { _, err := w.CancelDelivery(ctx, op, "", "dlv_1"); return err },
		"read":    func() error { _, err := w.GetEvent(ctx, op, "acme", "evt_1"); return err },
		"token": func() error {
			_, _, err := w.CreateToken(ctx, op, access.Grant{Account: "x", Role: access.Operator})
			return err
		},
		"revoke": func() error { _, err := w.RevokeToken(ctx, op, "", ann.CredentialID); return err },
		"dev":    func() error { return w.EnterDev(ctx) },
	}
	for name, act := range acts {
		if err := act(); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if now := w.Registry.Snapshot(); now.Len() != 1 || now.Endpoint(e.ID) != e {
		t.Error("the registry changed")
	}
	if len(w.Access.List()) != tokens || w.Access.Live(ann) != nil || len(w.owners.calls) != 0 || len(w.courier.tested) != 0 {
		t.Error("something was done")
	}
	if marked, err := w.Registry.Dev(ctx); marked || err != nil {
		t.Error("marked", err)
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	op, local := w.caller("op", access.Operator, ""), w.caller("local", access.Operator, "acme")
	token, secret, err := w.CreateToken(ctx, local, access.Grant{Account: "crm", Role: access.Publisher})
	if err != nil || token.Tenant != "acme" || token.Creator != "local" || secret.Empty() {
		t.Fatalf("%+v, %v", token, err)
	}
	if _, _, err := w.CreateToken(ctx, op, access.Grant{Account: "x", Role: access.Partner}); !isInvalid(err, "tenant") {
		t.Errorf("partner of all tenants: %v", err)
	}
	if _, _, err := w.CreateToken(ctx, local, access.Grant{Account: "x", Role: access.Operator, Tenant: "globex"}); !isForbidden(err) {
		t.Errorf("for another tenant: %v", err)
	}
	weak := local
	weak.Scopes = []access.Scope{access.TokensWrite, access.EventsPublish}
	if _, _, err := w.CreateToken(ctx, weak, access.Grant{Account: "x", Role: access.Operator}); !isForbidden(err) {
		t.Errorf("more than one's own: %v", err)
	}
	if _, _, err := w.CreateToken(ctx, weak, access.Grant{Account: "x", Role: access.Operator, Scopes: []access.Scope{access.EventsPublish}}); err != nil {
		t.Errorf("one's own: %v", err)
	}
	list, err := w.ListTokens(ctx, local, TokenQuery{Account: "crm"})
	if err != nil || len(list.Tokens) != 1 || list.Tokens[0].ID != token.ID {
		t.Errorf("list: %+v, %v", list, err)
	}
	for _, tok := range mustTokens(t, w, local) {
		if tok.Tenant != "acme" {
			t.Errorf("sees a token of %q", tok.Tenant)
		}
	}
	if _, err := w.RevokeToken(ctx, local, "", op.CredentialID); !errors.Is(err, ErrNotFound) {
		t.Errorf("of all tenants, by one of one: %v", err)
	}
	crm, err := w.Access.Authenticate(ctx, access.Presented{Token: secret.Reveal()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.RevokeToken(ctx, crm, "", local.CredentialID); !isForbidden(err) {
		t.Errorf("by a publisher: %v", err)
	}
	if got, err := w.RevokeToken(ctx, crm, "", crm.CredentialID); err != nil || got.RevokeTime.IsZero() {
		t.Errorf("its own: %v", err)
	}
	if _, err := w.Access.Authenticate(ctx, access.Presented{Token: secret.Reveal()}); !errors.Is(err, access.ErrRevoked) {
		t.Errorf("after: %v", err)
	}
}

func mustTokens(t *testing.T, w *world, who access.Caller) (all []access.Token) {
	t.Helper()
	q := TokenQuery{PageSize: 1}
	for {
		page, err := w.ListTokens(t.Context(), who, q)
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range page.Tokens {
			all = append(all, one.Token)
		}
		if q.PageToken = page.NextPageToken; q.PageToken == "" {
			return all
		}
	}
}

func isInvalid(err error, fields ...string) bool {
	var bad relay.Invalid
	if !errors.As(err, &bad) {
		return false
	}
	var got []string
	for _, v := range bad {
		got = append(got, v.Field)
	}
	return slices.Equal(got, fields)
}

func TestDeliveries(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	ann, op := w.caller("ann", access.Partner, "acme"), w.caller("op", access.Operator, "")
	e := w.active(ann)
	w.view.deliveries = []relay.DeliveryStatus{
		{ID: "dlv_1", Tenant: "acme", EndpointID: e.ID, State: relay.Parked, Seq: 9}, {ID: "dlv_2", Tenant: "acme", EndpointID: e.ID, State: relay.Delivered},
	}
	w.owners.onCall = func(call string, ref DeliveryRef) {
		if call == "cancel" && ref.Seq == 9 {
			w.view.deliveries[0].State = relay.Cancelled
		}
	}
	if d, err := w.CancelDelivery(ctx, ann, "", "dlv_1"); err != nil || d.State != relay.Cancelled {
		t.Errorf("cancel: %+v, %v", d, err)
	}
	if _, err := w.CancelDelivery(ctx, ann, "", "dlv_2"); !isState(err) {
		t.Errorf("cancel of a delivered one: %v", err)
	}
	if _, err := w.RetryDelivery(ctx, op, "", "dlv_2"); err != nil {
		t.Errorf("retry: %v", err)
	}
	if got := strings.Join(w.owners.calls, ", "); got != "cancel dlv_1 "+e.ID+", retry dlv_2 "+e.ID {
		t.Errorf("owners were asked %s", got)
	}
	w.owners.fail = errors.New("owner is away")
	if _, err := w.RetryDelivery(ctx, op, "", "dlv_2"); err == nil {
		t.Error("retry without an owner")
	}
	w.owners.fail = nil
	if _, err := w.DeleteEndpoint(ctx, ann, Ref{ID: e.ID}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.RetryDelivery(ctx, op, "", "dlv_2"); !isState(err) {
		t.Errorf("retry to a deleted endpoint: %v", err)
	}
	for field, q := range map[string]relay.DeliveryQuery{
		"pageSize": {PageSize: relay.MaxPageSize + 1}, "eventType": {EventType: "A"}, "eventId": {EventID: "a.b"}, "tenant": {Tenant: "A"}, "pageToken": {PageToken: "x"},
	} {
		if _, err := w.ListDeliveries(ctx, op, q); !isInvalid(err, field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}
