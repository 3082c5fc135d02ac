package trust_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/durationpb"

	sealpostv1 "github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay/client"
)

var update = flag.Bool("update", false, "write the access matrix as it is found: then read the difference as the change of security that it is")

const matrixFile = "matrix.txt"

// callers are the columns of the first part of the matrix: a role of tenant acme in small letters, one of all tenants in capitals.
var callers = []string{"nobody", "publisher", "partner", "operator", "OPERATOR", "security", "SECURITY", "auditor", "AUDITOR"}

// states are the columns of the second part: an operator of all tenants, by a credential that is not to be taken. The sandbox's is taken, and is
// for what is of the sandbox.
var states = []string{"expired", "revoked", "address", "bound", "disabled", "bootstrap", "unmapped-certificate", "revoked-certificate", "sandbox"}

// objects are the rows of a method: what it is done to is of the tenant acme, or of another.
var objects = []string{"acme", "globex"}

// TestAccessMatrix calls every method of every service, by every role and tenant and by each state of a credential, over gRPC, and by each
// state over REST too. What is to come of it stands in matrix.txt: a method, or a caller, that is not in it fails.
//
// OK stands for whatever the method answers to who is let in, also for a stream that goes on, and for an object that is not in the state for it. Each call has an object of its own.
func TestAccessMatrix(t *testing.T) {
	t.Parallel()
	m := newMatrix(t)
	found := map[string]string{}
	for _, method := range m.methods {
		short := strings.TrimPrefix(string(method.FullName()), "sealpost.v1.")
		for _, tenant := range objects {
			row := make([]string, len(callers))
			for i, caller := range callers {
				row[i] = m.call(method, m.conns[caller], tenant)
			}
			found["role "+short+" "+tenant] = strings.Join(row, " ")
		}
		row := make([]string, len(states))
		for i, state := range states {
			row[i] = m.call(method, m.conns[state], "acme")
		}
		found["grpc "+short] = strings.Join(row, " ")
		path, ok := m.paths[short]
		if !ok {
			found["rest "+short] = "none"
			continue
		}
		for i, state := range states {
			row[i] = m.rest(path, state)
		}
		found["rest "+short] = strings.Join(row, " ")
	}
	if *update {
		m.write(found)
	}
	written := readMatrix(t)
	for _, key := range slices.Sorted(maps.Keys(found)) {
		switch want, listed := written[key]; {
		case !listed:
			t.Errorf("%s is not in %s; found: %s", key, matrixFile, found[key])
		case want != found[key]:
			t.Errorf("%s:\n  written %s\n  found   %s", key, want, found[key])
		}
	}
	for key := range written {
		if _, ok := found[key]; !ok {
			t.Errorf("%s is in %s, and there is no such method", key, matrixFile)
		}
	}
}

// TestMatrixHolds reads the written matrix by rules that no mistake of its author's may break.
func TestMatrixHolds(t *testing.T) {
	t.Parallel()
	for key, line := range readMatrix(t) {
		part, method, _ := strings.Cut(key, " ")
		cells := strings.Fields(line)
		method, tenant, _ := strings.Cut(method, " ")
		open := method == "AccessService.BeginSignIn" || method == "AccessService.CompleteSignIn"
		switch part {
		case "role":
			if len(cells) != len(callers) {
				t.Fatalf("%s has %d cells", key, len(cells))
			}
			for i, caller := range callers {
				if (caller == "nobody") != (cells[i] == "Unauthenticated") && !open {
					t.Errorf("%s: %s gets %s", key, caller, cells[i])
				}
				bound := caller == strings.ToLower(caller)
				if reads := listing[method]; tenant == "globex" && bound && cells[i] == "OK" && !reads && !open {
					t.Errorf("%s: a %s of acme acts on what is globex's", key, caller)
				}
				if strings.EqualFold(caller, "auditor") && cells[i] == "OK" && !reading(method) && !open {
					t.Errorf("%s: an auditor changes something", key)
				}
			}
		case "grpc", "rest":
			if line == "none" {
				continue
			}
			for i, state := range states {
				if state != "sandbox" && cells[i] != "Unauthenticated" && cells[i] != "401" && !open {
					t.Errorf("%s: %s gets %s", key, state, cells[i])
				}
			}
		}
	}
}

// listing are the methods that answer OK to who asks for another tenant's, with nothing of it, or that are not of a tenant.
var listing = map[string]bool{"AccessService.GetCaller": true, "AuditService.GetAuditCheckpoint": true}

func reading(method string) bool {
	_, name, _ := strings.Cut(method, ".")
	return strings.HasPrefix(name, "Get") || strings.HasPrefix(name, "List") || strings.HasPrefix(name, "Watch") || strings.HasPrefix(name, "Export") || strings.HasPrefix(name, "Prove")
}

// matrix is an office with a caller of every kind.
type matrix struct {
	*office
	methods  []protoreflect.MethodDescriptor
	paths    map[string]restPath
	conns    map[string]*grpc.ClientConn
	tokens   map[string]string
	certs    map[string]*tls.Certificate
	delivery map[string]string // by tenant
	serial   int
}

type restPath struct{ verb, path string }

func newMatrix(t *testing.T) *matrix {
	m := &matrix{office: openOffice(t, nil), conns: map[string]*grpc.ClientConn{}, tokens: map[string]string{}, certs: map[string]*tls.Certificate{}, paths: map[string]restPath{}}
	m.findMethods()
	m.makeCallers()
	for name, token := range m.tokens {
		m.conns[name] = m.dial(token, m.certs[name])
	}
	return m
}

// findMethods lists every method of every service that the package describes, and the REST path of each that has one.
func (m *matrix) findMethods() {
	protoregistry.GlobalFiles.RangeFilesByPackage("sealpost.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			methods := f.Services().Get(i).Methods()
			for n := range methods.Len() {
				m.methods = append(m.methods, methods.Get(n))
			}
		}
		return true
	})
	slices.SortFunc(m.methods, func(a, b protoreflect.MethodDescriptor) int {
		return strings.Compare(string(a.FullName()), string(b.FullName()))
	})
	var api struct {
		Paths map[string]map[string]struct {
			OperationID string `json:"operationId"`
		}
	}
	if err := json.Unmarshal([]byte(sealpostv1.OpenAPI()), &api); err != nil {
		m.t.Fatal(err)
	}
	for path, verbs := range api.Paths {
		for verb, one := range verbs {
			m.paths[strings.Replace(one.OperationID, "_", ".", 1)] = restPath{strings.ToUpper(verb), path}
		}
	}
}

func (m *matrix) makeCallers() {
	m.tokens["nobody"] = ""
	for _, name := range callers[1:] {
		grant := object{"account": "matrix-" + name, "role": strings.ToUpper(name), "ttl": "7200s"}
		if name == strings.ToLower(name) {
			grant["tenant"] = "acme"
		}
		m.tokens[name] = m.office.token(m.ann, grant)
	}
	state := func(name string, more object) object {
		grant := object{"account": "state-" + name, "role": "OPERATOR", "ttl": "7200s"}
		maps.Copy(grant, more)
		made := m.ok(m.ann, "POST", "/v1/tokens", grant)
		m.tokens[name] = made.S("secret")
		return made.O("token")
	}
	state("expired", object{"ttl": "60s"})
	m.ok(m.ann, "POST", "/v1/tokens/"+state("revoked", nil).S("id")+":revoke", object{})
	state("address", object{"cidrs": []string{"192.0.2.0/24"}})
	state("bound", object{"certificateSha256": strings.Repeat("ab", 32)})
	state("disabled", nil)
	m.ok(m.ann, "POST", "/v1/accounts/state-disabled:disable", object{"reason": "the matrix"})
	m.tokens["bootstrap"] = m.bootstrap

	unmapped := newAuthority(m.t).client(m.t, "spiffe://elsewhere.example/x")
	m.certs["unmapped-certificate"], m.tokens["unmapped-certificate"] = &unmapped, ""
	m.ok(m.ann, "POST", "/v1/accounts", object{"name": "certified", "role": "OPERATOR"})
	revoked := m.issue("certified", "", time.Hour)
	m.certs["revoked-certificate"], m.tokens["revoked-certificate"] = &revoked, ""
	m.ok(m.ann, "POST", "/v1/certificates/"+fingerprint(revoked)+":revoke", object{})

	m.ok(m.ann, "POST", "/v1/accounts", object{"name": "sandbox", "role": "OPERATOR", "environment": "SANDBOX"})
	m.tokens["sandbox"] = m.office.token(m.ann, object{"account": "sandbox", "ttl": "7200s"})

	m.ahead.Store(int64(61 * time.Second)) // the expired one expires
	m.delivery = map[string]string{}
	for _, tenant := range objects {
		id := m.endpoint(m.ann, tenant)
		if status, out := m.approve(m.bob, id, tenant); status != http.StatusOK {
			m.t.Fatalf("approve: %d %v", status, out)
		}
		m.ok(m.ann, "POST", "/v1/events", object{"tenant": tenant, "id": "known", "type": "contact.updated", "subject": "contact/1", "data": object{}})
		m.delivery[tenant] = m.awaitDelivery(tenant)
	}
}

// awaitDelivery is the id of the tenant's delivery, once the view has it.
func (m *matrix) awaitDelivery(tenant string) string {
	m.t.Helper()
	for {
		if list := m.ok(m.ann, "GET", "/v1/deliveries?eventId=known&tenant="+tenant, nil).L("deliveries"); len(list) > 0 {
			return list[0].S("id")
		}
		if m.t.Context().Err() != nil {
			m.t.Fatal("no delivery")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// call makes one call and gives its code's name.
func (m *matrix) call(method protoreflect.MethodDescriptor, conn *grpc.ClientConn, tenant string) string {
	m.t.Helper()
	request, answer := m.request(method, tenant), message(m.t, method.Output())
	name := "/" + string(method.Parent().FullName()) + "/" + string(method.Name())
	within := time.Minute
	if strings.HasPrefix(string(method.Name()), "Watch") {
		within = 300 * time.Millisecond // it goes on until its caller leaves
	}
	ctx, cancel := context.WithTimeout(m.t.Context(), within)
	defer cancel()
	var err error
	if method.IsStreamingServer() || method.IsStreamingClient() {
		err = stream(ctx, conn, method, name, request, answer)
		if within < time.Minute && status.Code(err) == codes.DeadlineExceeded {
			err = nil
		}
	} else {
		err = conn.Invoke(ctx, name, request, answer)
	}
	if p, ok := answer.(*sealpostv1.PublishEventsResponse); ok && err == nil && p.GetResult().GetError() != nil {
		return codes.Code(p.GetResult().GetError().GetCode()).String()
	}
	if p, ok := answer.(*sealpostv1.BatchPublishEventsResponse); ok && err == nil && len(p.GetResults()) > 0 && p.GetResults()[0].GetError() != nil {
		return codes.Code(p.GetResults()[0].GetError().GetCode()).String()
	}
	if status.Code(err) == codes.FailedPrecondition { // it is not for who calls, but for how the object is
		return codes.OK.String()
	}
	return status.Code(err).String()
}

// stream sends one request and reads to the first answer, or to the end where answers are all that there is to it.
func stream(ctx context.Context, conn *grpc.ClientConn, method protoreflect.MethodDescriptor, name string, request, answer proto.Message) error {
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: method.IsStreamingServer(), ClientStreams: method.IsStreamingClient()}, name)
	if err != nil {
		return err
	}
	if err := s.SendMsg(request); err != nil {
		return s.RecvMsg(answer)
	}
	if !method.IsStreamingClient() {
		if err := s.CloseSend(); err != nil {
			return err
		}
	}
	return s.RecvMsg(answer)
}

func message(t *testing.T, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	kind, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return kind.New().Interface()
}

// request is one that the method can do something with, on an object of the tenant that is there for this call alone. A method that is not named
// gets the tenant and an id that nothing has.
func (m *matrix) request(method protoreflect.MethodDescriptor, tenant string) proto.Message {
	m.t.Helper()
	m.serial++
	unique := fmt.Sprintf("m%d", m.serial)
	r := message(m.t, method.Input())
	set := func(name string, value any) {
		if f := r.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(name)); f != nil && f.Message() == nil {
			r.ProtoReflect().Set(f, protoreflect.ValueOf(value))
		}
	}
	set("tenant", tenant)
	switch method.Parent().Name() {
	case "EndpointService", "IncidentService":
		set("reason", "the matrix")
		set("id", m.endpoint(m.bob, tenant))
	case "DeliveryService":
		set("id", m.delivery[tenant])
	default:
		set("id", "none")
	}
	event := &sealpostv1.Event{Tenant: tenant, Id: unique, Type: "deal.won", Subject: "deal/1", Data: []byte(`{}`)}
	switch r := r.(type) {
	case *sealpostv1.PublishEventRequest:
		r.Event = event
	case *sealpostv1.BatchPublishEventsRequest:
		r.Events = []*sealpostv1.Event{event}
	case *sealpostv1.PublishEventsRequest:
		r.Number, r.Event = 1, event
	case *sealpostv1.GetEventRequest:
		r.Id = "known"
	case *sealpostv1.EraseSubjectRequest:
		r.Subject, r.Reason, r.RequestId = "contact/"+unique, "the matrix", unique
	case *sealpostv1.CreateEndpointRequest:
		r.Endpoint = &sealpostv1.Endpoint{
			Tenant: tenant, Url: "https://127.0.0.1:9/hook", Owner: "ops@partner.example", Purpose: "the matrix", EventTypes: []string{"contact.*"},
			Redaction: &sealpostv1.Redaction{Mode: sealpostv1.Redaction_NONE},
		}
	case *sealpostv1.SetEventTypeRequest:
		r.EventType = &sealpostv1.EventType{Tenant: tenant, Type: "note." + unique, Sensitivity: sealpostv1.EventType_INTERNAL}
	case *sealpostv1.ProveAuditRequest:
		r.Sequence = 1
	case *sealpostv1.AcceptAuditBreakRequest:
		r.Reason = "the matrix"
	case *sealpostv1.UpdateEndpointRequest:
		r.Endpoint = &sealpostv1.Endpoint{Id: m.endpoint(m.bob, tenant), Tenant: tenant, Purpose: "narrower"}
	case *sealpostv1.ReplayDeliveriesRequest:
		m.replay(r, tenant, unique)
	case *sealpostv1.GetOperationRequest:
		r.Id = m.operation(tenant, unique)
	case *sealpostv1.CancelOperationRequest:
		r.Id = m.operation(tenant, unique)
	case *sealpostv1.CreateAccountRequest:
		r.Account = &sealpostv1.Account{Name: unique, Tenant: tenant, Role: sealpostv1.Token_PARTNER}
	case *sealpostv1.GetAccountRequest:
		r.Name = m.account(tenant, unique)
	case *sealpostv1.DisableAccountRequest:
		r.Name = m.account(tenant, unique)
	case *sealpostv1.EnableAccountRequest:
		r.Name = m.account(tenant, unique)
	case *sealpostv1.CreateTokenRequest:
		r.Token = &sealpostv1.Token{Account: unique, Tenant: tenant, Role: sealpostv1.Token_PARTNER}
	case *sealpostv1.RotateTokenRequest:
		r.Id, r.Overlap = m.partnerToken(tenant, unique), durationpb.New(time.Minute)
	case *sealpostv1.RevokeTokenRequest:
		r.Id = m.partnerToken(tenant, unique)
	case *sealpostv1.IssueCertificateRequest:
		r.Account, r.RequestPem = m.account(tenant, unique), m.csr()
	case *sealpostv1.RenewCertificateRequest:
		r.RequestPem = m.csr()
	case *sealpostv1.MapCertificateRequest:
		r.Certificate = &sealpostv1.Certificate{Account: m.account(tenant, unique), Tenant: tenant, Sha256: m.print()}
	case *sealpostv1.RevokeCertificateRequest:
		r.Id = m.ok(m.ann, "POST", "/v1/certificates:map", object{"account": m.account(tenant, unique), "tenant": tenant, "sha256": m.print()}).S("id")
	}
	return r
}

func (m *matrix) account(tenant, name string) string {
	m.ok(m.ann, "POST", "/v1/accounts", object{"name": name, "tenant": tenant, "role": "PARTNER"})
	return name
}

func (m *matrix) partnerToken(tenant, name string) string {
	return m.ok(m.ann, "POST", "/v1/tokens", object{"account": name, "tenant": tenant, "role": "PARTNER"}).S("token", "id")
}

func (m *matrix) print() string { return fmt.Sprintf("%064x", m.serial) }

// rest makes one REST call by a state's credential, with nothing in it, and gives its status.
func (m *matrix) rest(p restPath, state string) string {
	m.t.Helper()
	path := strings.NewReplacer("{", "", "}", "").Replace(p.path)
	var body any
	if p.verb == http.MethodPost || p.verb == http.MethodPatch {
		body = object{}
	} else {
		path += "?tenant=acme"
	}
	if strings.Contains(path, ":watch") && state == "sandbox" {
		return "stream"
	}
	code, _ := m.office.call(m.web(m.certs[state]), m.tokens[state], p.verb, path, body)
	return fmt.Sprint(code)
}

const matrixHead = `# Who may do what: every method of the API, by every role and by every state of a credential. TestAccessMatrix calls them all and holds
# the answers against this; a method that is not here fails it. To write it anew: go test ./test/trust -run AccessMatrix -update, and then
# read the difference: each changed word is a change of who may do what.
#
# role METHOD TENANT   what it is done to is of this tenant; by %s
#                      (small letters: of the tenant acme, capitals: of all tenants)
# grpc METHOD          by an operator of all tenants over gRPC, whose credential is %s
# rest METHOD          the same over REST, with nothing in the request
`

func (m *matrix) write(found map[string]string) {
	var b strings.Builder
	fmt.Fprintf(&b, matrixHead, strings.Join(callers, " "), strings.Join(states, " "))
	for _, method := range m.methods {
		short := strings.TrimPrefix(string(method.FullName()), "sealpost.v1.")
		b.WriteString("\n")
		for _, key := range []string{"role " + short + " acme", "role " + short + " globex", "grpc " + short, "rest " + short} {
			fmt.Fprintf(&b, "%s: %s\n", key, found[key])
		}
	}
	if err := os.WriteFile(matrixFile, []byte(b.String()), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func readMatrix(t *testing.T) map[string]string {
	t.Helper()
	f, err := os.Open(matrixFile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := map[string]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		key, cells, ok := strings.Cut(line, ": ")
		if _, again := out[key]; !ok || again {
			t.Fatalf("%s: %q", matrixFile, line)
		}
		out[key] = cells
	}
	return out
}

func (m *matrix) csr() string {
	m.t.Helper()
	_, request, err := client.NewRequest()
	if err != nil {
		m.t.Fatal(err)
	}
	return request
}

// replay asks for one that matches nothing.
func (m *matrix) replay(r *sealpostv1.ReplayDeliveriesRequest, tenant, unique string) {
	r.Replay, r.Reason, r.RequestId = &sealpostv1.Replay{Tenant: tenant, EndpointId: m.endpoint(m.bob, tenant)}, "the matrix", unique
}

// operation is a replay's.
func (m *matrix) operation(tenant, unique string) string {
	m.t.Helper()
	return m.ok(m.ann, "POST", "/v1/events:eraseSubject", object{"tenant": tenant, "subject": "contact/" + unique, "reason": "the matrix", "requestId": unique}).S("id")
}
