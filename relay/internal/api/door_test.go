package api

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/audit"
	"github.com/sealpost/sealpost/relay/internal/control"
	"github.com/sealpost/sealpost/relay/internal/onboard"
	"github.com/sealpost/sealpost/relay/internal/operation"
	"github.com/sealpost/sealpost/relay/internal/redact"
	"github.com/sealpost/sealpost/relay/internal/registry"
	"github.com/sealpost/sealpost/relay/proof"
)

// The one door has the methods that the faces call.
var (
	_ Authenticator = (*access.Keeper)(nil)
	_ Noter         = (*control.Control)(nil)
	_ Events        = (*control.Control)(nil)
	_ Endpoints     = (*control.Control)(nil)
	_ Deliveries    = (*control.Control)(nil)
	_ Access        = (*control.Control)(nil)
	_ Audit         = (*control.Control)(nil)
	_ EventTypes    = (*control.Control)(nil)
)

// door keeps things in memory and answers as control's contract says; fail, where set, is every answer.
type door struct {
	Access // nil: what is not below is not called here

	mu        sync.Mutex
	fail      error
	events    map[string]relay.Event
	order     []string
	calls     []string
	noted     []string
	spec      control.Spec
	ref       control.Ref
	mask      []string
	query     relay.DeliveryQuery
	grant     access.Grant
	requestID string
	replay    relay.Replay
	caller    access.Caller
	block     chan struct{} // PublishEvents waits for it, where set
	publishes int
	outcomes  []relay.Outcome
}

func newDoor() *door { return &door{events: map[string]relay.Event{}} }

func (d *door) note(who access.Caller, call string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls, d.caller = append(d.calls, call), who
	if call == "panic" {
		panic("boom with a payload")
	}
	return d.fail
}

func (d *door) Authenticate(_ context.Context, p access.Presented) (access.Caller, error) {
	from := p.Address
	switch p.Token {
	case "":
		return access.Caller{}, access.ErrNoToken
	case "expired":
		return access.Caller{}, fmt.Errorf("token abc: %w", access.ErrExpired)
	case "revoked":
		return access.Caller{}, access.ErrRevoked
	case "good":
		return access.Caller{Account: "crm", Role: access.Publisher, Tenant: "acme", Address: from}, nil
	}
	return access.Caller{}, access.ErrToken
}

func (d *door) PublishEvents(ctx context.Context, who access.Caller, events []relay.Event) ([]control.PublishResult, error) {
	if err := d.note(who, "publish"); err != nil {
		return nil, err
	}
	d.mu.Lock()
	block := d.block
	d.publishes++
	d.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]control.PublishResult, len(events))
	for i, e := range events {
		e.ID = cmp.Or(e.ID, "evt_assigned")
		if e.Time.IsZero() {
			e.Time = time.Unix(1, 0)
		}
		out[i].ID = e.ID
		bad := e.Check()
		if err := redact.Validate(e.Data); err != nil {
			bad.Add("data", "must be one JSON value: %v", err)
		}
		had, ok := d.events[e.Tenant+"/"+e.ID]
		switch {
		case bad != nil:
			out[i].Err = bad.Err()
		case strings.HasPrefix(e.ID, "busy"):
			out[i].Err = &control.BusyError{RetryAfter: 1500 * time.Millisecond}
		case strings.HasPrefix(e.ID, "panic"):
			panic("boom with a payload")
		case ok && string(had.Data) != string(e.Data):
			out[i].Err = control.ErrExists
		default:
			out[i].Duplicate = ok
			d.events[e.Tenant+"/"+e.ID] = e
			d.order = append(d.order, e.ID)
		}
	}
	return out, nil
}

func (d *door) PreviewEvent(_ context.Context, who access.Caller, e relay.Event) (string, []control.Preview, error) {
	return e.ID, []control.Preview{
		{EndpointID: "ep_1", Outcome: control.PreviewDelivery, Redacted: 1, Data: []byte(`{"big":123456789012345678901234567890, "data":"x"}`)},
		{EndpointID: "ep_2", Outcome: control.PreviewWithheld, Reason: relay.ReasonFilterFailed},
	}, d.note(who, "preview")
}

func (d *door) GetEvent(_ context.Context, who access.Caller, tenant, id string) (control.EventView, error) {
	if err := d.note(who, "event"); err != nil {
		return control.EventView{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	e, ok := d.events[cmp.Or(tenant, who.Tenant)+"/"+id]
	if !ok {
		return control.EventView{}, control.ErrNotFound
	}
	return control.EventView{Event: e, Matched: true}, nil
}

func (d *door) endpoint(who access.Caller, call string, ref control.Ref) (*registry.Endpoint, error) {
	err := d.note(who, call)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ref = ref
	u, _ := relay.ParseEndpointURL("https://hooks.partner.example/crm", false)
	proposed := &registry.Record{Proposed: &registry.Proposal{
		Author: "partner", Settings: registry.Settings{URL: "https://new.example/", Headers: []registry.Header{{Name: "X-New", Value: []byte("hush")}}},
	}}
	return &registry.Endpoint{Record: proposed, Endpoint: &relay.Endpoint{
		ID: cmp.Or(ref.ID, "ep_1"), Tenant: "acme", URL: u, State: relay.EndpointActive, Revision: 0x1f,
		Redaction: relay.Redaction{Mode: relay.RedactionDenyListed, Mask: []relay.Mask{{Path: "**.card", KeepLast: 4}}},
		TLS:       relay.TLS{ClientCertificate: relay.ClientCertificateRequired}, Scheme: "standard", ContentMode: "envelope",
		Headers: []relay.Header{{Name: "X-Key", Value: relay.NewSecret("hush")}}, BasicUser: "u", BasicPass: relay.NewSecret("hush"),
		Timeout: 15 * time.Second,
	}}, err
}

func (d *door) CreateEndpoint(_ context.Context, who access.Caller, asked control.Spec, requestID string) (control.Created, error) {
	e, err := d.endpoint(who, "create", control.Ref{})
	d.mu.Lock()
	defer d.mu.Unlock()
	d.spec, d.requestID = asked, requestID
	return control.Created{Endpoint: e, Secret: relay.NewSecret("whsec_once")}, err
}
func (d *door) GetEndpoint(_ context.Context, who access.Caller, ref control.Ref) (*registry.Endpoint, error) {
	return d.endpoint(who, "get", ref)
}
func (d *door) ListEndpoints(_ context.Context, who access.Caller, q control.EndpointQuery) (control.EndpointPage, error) {
	e, err := d.endpoint(who, "list "+q.Tenant+" "+string(q.State), control.Ref{})
	return control.EndpointPage{Endpoints: []*registry.Endpoint{e}, NextPageToken: "more"}, err
}
func (d *door) UpdateEndpoint(_ context.Context, who access.Caller, ref control.Ref, asked control.Spec, mask []string) (*registry.Endpoint, error) {
	e, err := d.endpoint(who, "update", ref)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.spec, d.mask = asked, mask
	return e, err
}
func (d *door) DeleteEndpoint(_ context.Context, who access.Caller, ref control.Ref) (*registry.Endpoint, error) {
	return d.endpoint(who, "delete", ref)
}
func (d *door) ApproveEndpoint(_ context.Context, who access.Caller, ref control.Ref) (*registry.Endpoint, error) {
	return d.endpoint(who, "approve", ref)
}
func (d *door) RejectEndpoint(_ context.Context, who access.Caller, ref control.Ref, reason string) (*registry.Endpoint, error) {
	return d.endpoint(who, "reject "+reason, ref)
}
func (d *door) PauseEndpoint(_ context.Context, who access.Caller, ref control.Ref, reason string) (*registry.Endpoint, error) {
	return d.endpoint(who, "pause "+reason, ref)
}
func (d *door) ContainEndpoint(_ context.Context, who access.Caller, ref control.Ref, reason string) (*registry.Endpoint, error) {
	return d.endpoint(who, "contain "+reason, ref)
}
func (d *door) ReleaseEndpoint(_ context.Context, who access.Caller, ref control.Ref, reason string) (*registry.Endpoint, error) {
	return d.endpoint(who, "release "+reason, ref)
}
func (d *door) ResumeEndpoint(_ context.Context, who access.Caller, ref control.Ref) (*registry.Endpoint, error) {
	return d.endpoint(who, "resume", ref)
}
func (d *door) TestEndpoint(_ context.Context, who access.Caller, ref control.Ref) (relay.Attempt, relay.Verdict, error) {
	_, err := d.endpoint(who, "test", ref)
	return someAttempt(), relay.Verdict{}, err
}
func (d *door) EndpointHealth(_ context.Context, who access.Caller, ref control.Ref) (*registry.Endpoint, relay.EndpointHealth, error) {
	e, err := d.endpoint(who, "health", ref)
	return e, someHealth(), err
}

func (d *door) RotateSecret(_ context.Context, who access.Caller, ref control.Ref, asked control.Rotation) (control.NewSecret, error) {
	overlap := "default"
	if asked.Overlap != nil {
		overlap = asked.Overlap.String()
	}
	e, err := d.endpoint(who, fmt.Sprintf("rotate %s %s %v %s", asked.Secret.Reveal(), overlap, asked.Revoke, asked.Reason), ref)
	return control.NewSecret{Endpoint: e, KeyID: "k2", Secret: relay.NewSecret("whsec_new")}, err
}
func (d *door) ActivateSecret(_ context.Context, who access.Caller, ref control.Ref) (*registry.Endpoint, error) {
	return d.endpoint(who, "activate", ref)
}
func (d *door) ClaimSecret(_ context.Context, who access.Caller, ref control.Ref) (control.NewSecret, error) {
	e, err := d.endpoint(who, "claim", ref)
	return control.NewSecret{Endpoint: e, KeyID: "k2", Secret: relay.NewSecret("whsec_new")}, err
}
func (d *door) RevokeSecret(_ context.Context, who access.Caller, ref control.Ref, keyID, reason string) (*registry.Endpoint, error) {
	return d.endpoint(who, "revoke "+keyID+" "+reason, ref)
}
func (d *door) RotateClientCertificate(_ context.Context, who access.Caller, ref control.Ref, reason string) (*registry.Endpoint, error) {
	return d.endpoint(who, "certificate "+reason, ref)
}

// backupBytes is what a backup of the door consists of.
const backupBytes = 700_001

func (d *door) BackUp(_ context.Context, who access.Caller, to io.Writer) error {
	if _, err := d.endpoint(who, "backup", control.Ref{}); err != nil {
		return err
	}
	_, err := to.Write(bytes.Repeat([]byte("b"), backupBytes))
	return err
}

func someHealth() relay.EndpointHealth {
	at := time.Unix(1700000000, 0)
	return relay.EndpointHealth{
		Breaker: relay.BreakerProbing, Open: map[relay.DeliveryState]int{relay.Parked: 7}, InFlight: 2, OldestOpen: at, LastFailure: at,
		LastFailureReason: relay.ReasonTimeout, Since: at,
		Spans: []relay.Span{{Length: 5 * time.Minute, Attempts: 9, Accepted: 8, Delivered: 8, P50: 3 * time.Millisecond, P99: time.Second,
			Failures: map[relay.Reason]int64{relay.ReasonTimeout: 1}}, {Length: time.Hour}},
	}
}

func someAttempt() relay.Attempt {
	return relay.Attempt{
		Number: 1, Verdict: relay.VerdictDone, Reason: relay.ReasonAccepted, StatusCode: 200, RemoteAddress: "192.0.2.1:443",
		Durations: relay.Durations{TLS: 3 * time.Millisecond, Total: 1500 * time.Millisecond}, ResponseBody: []byte("ok\xff"),
	}
}

func (d *door) delivery(who access.Caller, call, id string) (relay.DeliveryStatus, error) {
	return relay.DeliveryStatus{
		ID: id, Tenant: "acme", EndpointID: "ep_1", EventID: "evt_1", EventType: "contact.updated", State: relay.Retrying,
		Attempts: 2, Due: time.Unix(100, 0), History: []relay.Attempt{someAttempt()},
	}, d.note(who, call)
}

func (d *door) ListDeliveries(_ context.Context, who access.Caller, q relay.DeliveryQuery) (relay.DeliveryPage, error) {
	one, err := d.delivery(who, "deliveries", "dlv_1")
	d.mu.Lock()
	defer d.mu.Unlock()
	d.query = q
	return relay.DeliveryPage{Deliveries: []relay.DeliveryStatus{one}}, err
}
func (d *door) GetDelivery(_ context.Context, who access.Caller, _, id string) (relay.DeliveryStatus, error) {
	return d.delivery(who, "delivery", id)
}
func (d *door) RetryDelivery(_ context.Context, who access.Caller, tenant, id string) (relay.DeliveryStatus, error) {
	return d.delivery(who, "retry "+tenant, id)
}
func (d *door) CancelDelivery(_ context.Context, who access.Caller, _, id string) (relay.DeliveryStatus, error) {
	return d.delivery(who, "cancel", id)
}
func (d *door) WatchDeliveries(ctx context.Context, who access.Caller, q relay.DeliveryQuery, fn func(*relay.Outcome) error) error {
	if err := d.note(who, "watch"); err != nil {
		return err
	}
	d.mu.Lock()
	outcomes := d.outcomes
	d.mu.Unlock()
	for i := range outcomes {
		if err := fn(&outcomes[i]); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return ctx.Err()
}

func (d *door) CreateToken(_ context.Context, who access.Caller, g access.Grant) (access.Token, relay.Secret, error) {
	err := d.note(who, "token")
	d.mu.Lock()
	defer d.mu.Unlock()
	d.grant = g
	return access.Token{ID: "abc", Account: g.Account, Role: g.Role, Tenant: g.Tenant}, relay.NewSecret("spt_once"), err
}
func (d *door) ListTokens(_ context.Context, who access.Caller, _ control.TokenQuery) (control.TokenPage, error) {
	return control.TokenPage{Tokens: []control.TokenView{{Token: access.Token{ID: "abc", Role: access.Operator}}}}, d.note(who, "tokens")
}
func (d *door) RevokeToken(_ context.Context, who access.Caller, _, id string) (access.Token, error) {
	return access.Token{ID: id, RevokeTime: time.Unix(5, 0)}, d.note(who, "revoke")
}

func (d *door) operation(who access.Caller, call, id string) (control.Operation, error) {
	d.mu.Lock()
	replay := d.replay
	d.mu.Unlock()
	return control.Operation{
		Operation: operation.Operation{
			ID: id, Tenant: "acme", Kind: operation.Replay, State: operation.Running, Author: "ann", CreateTime: time.Unix(7, 0),
			Progress: operation.Progress{Examined: 3, Done: 2, Skipped: 1, Fraction: .5},
		},
		Replay: &replay,
	}, d.note(who, call)
}

func (d *door) ReplayDeliveries(_ context.Context, who access.Caller, r relay.Replay, reason, requestID string) (control.Operation, error) {
	d.mu.Lock()
	d.replay = r
	d.mu.Unlock()
	return d.operation(who, "replay "+reason+" "+requestID, "op_1")
}
func (d *door) GetOperation(_ context.Context, who access.Caller, tenant, id string) (control.Operation, error) {
	return d.operation(who, "operation "+tenant, id)
}
func (d *door) ListOperations(_ context.Context, who access.Caller, q control.OperationQuery) (control.OperationPage, error) {
	op, err := d.operation(who, fmt.Sprint("operations ", q.Tenant, q.Kind, q.State, q.PageSize), "op_1")
	return control.OperationPage{Operations: []control.Operation{op}, NextPageToken: "more"}, err
}
func (d *door) CancelOperation(_ context.Context, who access.Caller, tenant, id string) (control.Operation, error) {
	return d.operation(who, "end "+tenant, id)
}

func (d *door) EraseSubject(_ context.Context, who access.Caller, e control.Erasure) (control.Operation, error) {
	return d.operation(who, fmt.Sprint("erase ", e.Tenant, " ", e.Subject, " ", e.Reason), e.RequestID)
}

func (d *door) NoteUnauthenticated(_ context.Context, method string, from netip.Addr, why error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.noted = append(d.noted, fmt.Sprint(method, " ", from, " ", why))
}
func (d *door) ListAudit(_ context.Context, who access.Caller, q audit.Query) (audit.Page, error) {
	return audit.Page{Entries: []audit.Entry{auditEntry()}, NextPageToken: "more"}, d.note(who, fmt.Sprint("audit ", q.Tenant, q.Act, q.Outcome, q.PageSize, q.After.Unix()))
}
func (d *door) WatchAudit(_ context.Context, who access.Caller, q audit.Query, fn func(audit.Entry) error) error {
	if err := d.note(who, "watch audit "+q.Act); err != nil {
		return err
	}
	return fn(auditEntry())
}
func (d *door) AuditCheckpoint(_ context.Context, who access.Caller) (control.AuditState, error) {
	return control.AuditState{Signed: []byte("note"), Checkpoint: proof.Checkpoint{Size: 7}, First: 2, Broken: "truncated"}, d.note(who, "checkpoint")
}
func (d *door) ProveAudit(_ context.Context, who access.Caller, seq uint64, old int64) ([]byte, control.AuditState, error) {
	return []byte("proof"), control.AuditState{}, d.note(who, fmt.Sprint("prove ", seq, " ", old))
}
func (d *door) ExportAudit(_ context.Context, who access.Caller, first uint64, to io.Writer) error {
	if err := d.note(who, fmt.Sprint("export ", first)); err != nil {
		return err
	}
	_, err := to.Write(bytes.Repeat([]byte("x"), backupBytes))
	return err
}
func (d *door) AcceptAuditBreak(_ context.Context, who access.Caller, reason string) (control.AuditState, error) {
	return control.AuditState{}, d.note(who, "accept "+reason)
}

// auditEntry is one with everything in it.
func auditEntry() audit.Entry {
	return audit.Entry{Seq: 3, Raw: []byte{1, 2}, Tampered: true, Record: audit.Record{
		ActID: "act_1", Time: time.Unix(9, 0), Account: "ann", Role: access.Operator, CredentialID: "tok", CredentialKind: "TOKEN", CertificateSubject: "CN=a",
		CertificateSHA256: "ab", Address: netip.MustParseAddr("192.0.2.1"), Scope: access.EndpointsWrite, RequestID: "r1", Act: "endpoint.update", Object: "ep_a",
		Tenant: "acme", Outcome: audit.Allowed, Reason: "why", Before: []byte(`{"a":{"b":[1]}}`), After: []byte(`{"a":null}`), Detail: map[string]string{"k": "v"}, Omitted: 4,
	}}
}

func (d *door) options() Options {
	return Options{Auth: d, Noter: d, Events: d, Endpoints: d, EventTypes: d, Incidents: d, Deliveries: d, Operations: d, Access: d, System: d, Audit: d, MaxDataBytes: 1 << 20}
}

func (d *door) failing(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = err
}

// faces serves both over loopback.
type faces struct {
	door *door
	api  *Server
	url  string
	http *http.Client
	conn *grpc.ClientConn
}

func serve(t testing.TB, d *door, conf *tls.Config) *faces {
	t.Helper()
	o := d.options()
	o.TLS = conf
	return serveOptions(t, d, o)
}

func serveOptions(t testing.TB, d *door, o Options) *faces {
	t.Helper()
	conf := o.TLS
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewUnstartedServer(nil)
	web.Config = NewHTTPServer(s.HTTP())
	if conf != nil {
		web.StartTLS()
	} else {
		web.Start()
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.GRPC().Serve(listener) }()
	creds := insecure.NewCredentials()
	if conf != nil {
		creds = credentials.NewTLS(&tls.Config{RootCAs: web.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, ServerName: "example.com"})
	}
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		conn.Close()
		s.Stop(ctx)
		web.Close()
		// A test may be over before the server has begun.
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("gRPC server: %v", err)
		}
	})
	return &faces{door: d, api: s, url: web.URL, http: web.Client(), conn: conn}
}

// as is a context that calls with a token.
func as(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// answer is a REST answer.
type answer struct {
	code   int
	body   string
	header http.Header
}

// call makes a REST call with the good token; each header is "Name: value".
func (f *faces) call(t testing.TB, method, path, body string, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, f.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer good")
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if value == "" {
			req.Header.Del(name)
		} else {
			req.Header.Set(name, value)
		}
	}
	resp, err := f.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, string(out), resp.Header}
}

func (d *door) VerifyEndpoint(_ context.Context, who access.Caller, ref control.Ref, _ bool, _ []byte) (control.Verification, error) {
	e, err := d.endpoint(who, "verify", ref)
	at := &url.URL{Scheme: "https", Host: "hooks.partner.example"}
	return control.Verification{Endpoint: e, Challenge: onboard.NewChallenge("acme", ref.ID, at,
		func(string, []byte) []byte { return make([]byte, 32) }, time.Unix(1, 0))}, err
}

func (d *door) ReviewEndpoint(_ context.Context, who access.Caller, ref control.Ref) (control.Review, error) {
	e, err := d.endpoint(who, "review", ref)
	return control.Review{Endpoint: e, Wanted: e, Action: control.ApproveFirst}, err
}

func (d *door) ListInventory(_ context.Context, who access.Caller, q control.InventoryQuery) (control.InventoryPage, error) {
	e, err := d.endpoint(who, "inventory "+q.Owner, control.Ref{Tenant: q.Tenant, ID: "ep_1"})
	return control.InventoryPage{Items: []control.Item{{Endpoint: e, Objects: []string{"contact"}}}}, err
}

func (d *door) ReviewDue(*registry.Endpoint) time.Time { return time.Time{} }

func (d *door) SetEventType(_ context.Context, who access.Caller, t relay.EventType) (*relay.EventType, error) {
	return &t, d.note(who, "set "+t.Pattern)
}

func (d *door) GetEventType(_ context.Context, who access.Caller, tenant, pattern string) (*relay.EventType, error) {
	return &relay.EventType{Tenant: tenant, Pattern: pattern}, d.note(who, "type "+pattern)
}

func (d *door) ListEventTypes(_ context.Context, who access.Caller, tenant string, _ int, _ string) (control.EventTypePage, error) {
	return control.EventTypePage{EventTypes: []*relay.EventType{{Tenant: tenant, Pattern: "a.*"}}}, d.note(who, "types")
}

func (d *door) DeleteEventType(_ context.Context, who access.Caller, _, pattern string) error {
	return d.note(who, "forget "+pattern)
}
