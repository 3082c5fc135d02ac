package api

import (
	"context"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/control"
	"github.com/sealpost/sealpost/relay/internal/registry"
)

// Endpoints is the part of the door that endpoints go through. control has its contract.
type Endpoints interface {
	CreateEndpoint(ctx context.Context, who access.Caller, asked control.Spec, requestID string) (control.Created, error)
	GetEndpoint(ctx context.Context, who access.Caller, ref control.Ref) (*registry.Endpoint, error)
	ListEndpoints(ctx context.Context, who access.Caller, q control.EndpointQuery) (control.EndpointPage, error)
	UpdateEndpoint(ctx context.Context, who access.Caller, ref control.Ref, asked control.Spec, mask []string) (*registry.Endpoint, error)
	DeleteEndpoint(ctx context.Context, who access.Caller, ref control.Ref) (*registry.Endpoint, error)
	ApproveEndpoint(ctx context.Context, who access.Caller, ref control.Ref) (*registry.Endpoint, error)
	RejectEndpoint(ctx context.Context, who access.Caller, ref control.Ref, reason string) (*registry.Endpoint, error)
	PauseEndpoint(ctx context.Context, who access.Caller, ref control.Ref, reason string) (*registry.Endpoint, error)
	ResumeEndpoint(ctx context.Context, who access.Caller, ref control.Ref) (*registry.Endpoint, error)
	TestEndpoint(ctx context.Context, who access.Caller, ref control.Ref) (relay.Attempt, relay.Verdict, error)
	VerifyEndpoint(ctx context.Context, who access.Caller, ref control.Ref, instructionsOnly bool, signature []byte) (control.Verification, error)
	ReviewEndpoint(ctx context.Context, who access.Caller, ref control.Ref) (control.Review, error)
	ListInventory(ctx context.Context, who access.Caller, q control.InventoryQuery) (control.InventoryPage, error)
	ReviewDue(e *registry.Endpoint) time.Time
	EndpointHealth(ctx context.Context, who access.Caller, ref control.Ref) (*registry.Endpoint, relay.EndpointHealth, error)
	RotateSecret(ctx context.Context, who access.Caller, ref control.Ref, asked control.Rotation) (control.NewSecret, error)
	ActivateSecret(ctx context.Context, who access.Caller, ref control.Ref) (*registry.Endpoint, error)
	ClaimSecret(ctx context.Context, who access.Caller, ref control.Ref) (control.NewSecret, error)
	RevokeSecret(ctx context.Context, who access.Caller, ref control.Ref, keyID, reason string) (*registry.Endpoint, error)
	RotateClientCertificate(ctx context.Context, who access.Caller, ref control.Ref, reason string) (*registry.Endpoint, error)
}

type endpointService struct {
	sealpostv1.UnimplementedEndpointServiceServer
	endpoints Endpoints
}

// CreateEndpoint registers an endpoint; its secret is in the answer, this once.
func (s *endpointService) CreateEndpoint(ctx context.Context, r *sealpostv1.CreateEndpointRequest) (*sealpostv1.CreateEndpointResponse, error) {
	made, err := s.endpoints.CreateEndpoint(ctx, callerOf(ctx), specOf(r.GetEndpoint()), r.GetRequestId())
	if err != nil {
		return nil, err
	}
	out := &sealpostv1.CreateEndpointResponse{Endpoint: s.endpointOf(made.Endpoint)}
	if !made.Secret.Empty() {
		out.Secret = proto.String(made.Secret.Reveal())
	}
	if made.PublicPEM != "" {
		out.PublicKeyPem = &made.PublicPEM
	}
	return out, nil
}

// GetEndpoint is one endpoint, without its secrets.
func (s *endpointService) GetEndpoint(ctx context.Context, r *sealpostv1.GetEndpointRequest) (*sealpostv1.Endpoint, error) {
	return s.shown(s.endpoints.GetEndpoint(ctx, callerOf(ctx), control.Ref{Tenant: r.GetTenant(), ID: r.GetId()}))
}

// ListEndpoints is a page of them.
func (s *endpointService) ListEndpoints(ctx context.Context, r *sealpostv1.ListEndpointsRequest) (*sealpostv1.ListEndpointsResponse, error) {
	page, err := s.endpoints.ListEndpoints(ctx, callerOf(ctx), control.EndpointQuery{
		Tenant: r.GetTenant(), State: relay.EndpointState(enumName(r.GetState())), PageSize: int(r.GetPageSize()), PageToken: r.GetPageToken(),
		ReviewOverdue: r.GetReviewOverdue(),
	})
	if err != nil {
		return nil, err
	}
	out := &sealpostv1.ListEndpointsResponse{NextPageToken: page.NextPageToken}
	for _, e := range page.Endpoints {
		out.Endpoints = append(out.Endpoints, s.endpointOf(e))
	}
	return out, nil
}

// UpdateEndpoint changes what the mask names.
func (s *endpointService) UpdateEndpoint(ctx context.Context, r *sealpostv1.UpdateEndpointRequest) (*sealpostv1.Endpoint, error) {
	ref, err := refOf(r.GetEndpoint().GetId(), r.GetEndpoint().GetTenant(), r.GetEndpoint().GetEtag())
	if err != nil {
		return nil, err
	}
	mask, err := maskOf(ctx, r)
	if err != nil {
		return nil, err
	}
	return s.shown(s.endpoints.UpdateEndpoint(ctx, callerOf(ctx), ref, specOf(r.GetEndpoint()), mask))
}

// DeleteEndpoint ends an endpoint.
func (s *endpointService) DeleteEndpoint(ctx context.Context, r *sealpostv1.DeleteEndpointRequest) (*emptypb.Empty, error) {
	ref, err := refOf(r.GetId(), r.GetTenant(), r.GetEtag())
	if err != nil {
		return nil, err
	}
	if _, err := s.endpoints.DeleteEndpoint(ctx, callerOf(ctx), ref); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// ApproveEndpoint puts what is pending in force.
func (s *endpointService) ApproveEndpoint(ctx context.Context, r *sealpostv1.ApproveEndpointRequest) (*sealpostv1.Endpoint, error) {
	ref, err := refOf(r.GetId(), r.GetTenant(), r.GetEtag())
	if err != nil {
		return nil, err
	}
	return s.shown(s.endpoints.ApproveEndpoint(ctx, callerOf(ctx), ref))
}

// RejectEndpoint refuses what is pending.
func (s *endpointService) RejectEndpoint(ctx context.Context, r *sealpostv1.RejectEndpointRequest) (*sealpostv1.Endpoint, error) {
	ref, err := refOf(r.GetId(), r.GetTenant(), r.GetEtag())
	if err != nil {
		return nil, err
	}
	return s.shown(s.endpoints.RejectEndpoint(ctx, callerOf(ctx), ref, r.GetReason()))
}

// PauseEndpoint stops sending.
func (s *endpointService) PauseEndpoint(ctx context.Context, r *sealpostv1.PauseEndpointRequest) (*sealpostv1.Endpoint, error) {
	ref := control.Ref{Tenant: r.GetTenant(), ID: r.GetId()}
	return s.shown(s.endpoints.PauseEndpoint(ctx, callerOf(ctx), ref, r.GetReason()))
}

// ResumeEndpoint sends again.
func (s *endpointService) ResumeEndpoint(ctx context.Context, r *sealpostv1.ResumeEndpointRequest) (*sealpostv1.Endpoint, error) {
	return s.shown(s.endpoints.ResumeEndpoint(ctx, callerOf(ctx), control.Ref{Tenant: r.GetTenant(), ID: r.GetId()}))
}

// TestEndpoint sends a test event; an attempt that failed is an answer, not an error.
func (s *endpointService) TestEndpoint(ctx context.Context, r *sealpostv1.TestEndpointRequest) (*sealpostv1.TestEndpointResponse, error) {
	attempt, _, err := s.endpoints.TestEndpoint(ctx, callerOf(ctx), control.Ref{Tenant: r.GetTenant(), ID: r.GetId()})
	if err != nil {
		return nil, err
	}
	return &sealpostv1.TestEndpointResponse{Attempt: attemptOf(&attempt), Phases: phasesOf(&attempt)}, nil
}

func (s *endpointService) shown(e *registry.Endpoint, err error) (*sealpostv1.Endpoint, error) {
	if err != nil {
		return nil, err
	}
	return s.endpointOf(e), nil
}

func shownEndpoint(e *registry.Endpoint, err error) (*sealpostv1.Endpoint, error) {
	if err != nil {
		return nil, err
	}
	return endpointOf(e), nil
}

// endpointOf shows an endpoint with when its review is due, which its record does not hold.
func (s *endpointService) endpointOf(e *registry.Endpoint) *sealpostv1.Endpoint {
	out := endpointOf(e)
	out.ReviewDueTime = stamp(s.endpoints.ReviewDue(e))
	return out
}

func refOf(id, tenant, etag string) (control.Ref, error) {
	revision, err := revisionOf(etag)
	return control.Ref{Tenant: tenant, ID: id, ETag: revision}, err
}

// specOf reads what a caller asks of an endpoint. A number that the vocabulary's cannot hold is left to fail its bound.
func specOf(e *sealpostv1.Endpoint) control.Spec {
	s := control.Spec{
		Tenant: e.GetTenant(), URL: e.GetUrl(), Owner: e.GetOwner(), Purpose: e.GetPurpose(), Description: e.GetDescription(),
		EventTypes: e.GetEventTypes(), Filter: e.GetFilter(), Scheme: e.GetScheme(), ContentMode: e.GetContentMode(),
		Redaction:   redactionOf(e.GetRedaction()),
		Environment: relay.Environment(enumName(e.GetEnvironment())), DataScope: e.GetDataScope(),
		ChunkBytes: int(e.GetChunkBytes()), ChunkArray: e.GetChunkArray(), Concurrency: int(e.GetConcurrency()), Ordered: e.GetOrdered(),
		RateLimit: e.GetRateLimit().GetRequestsPerSecond(), HTTP2: e.GetHttp2(),
		Timeout: e.GetTimeout().AsDuration(), RetryFor: e.GetRetryFor().AsDuration(),
		TLS: relay.TLS{
			ClientCertificate: relay.ClientCertificateMode(enumName(e.GetTls().GetClientCertificate())),
			CAPEM:             e.GetTls().GetCaPem(), SPKIPins: e.GetTls().GetSpkiPins(), AllowTLS12: e.GetTls().GetAllowTls12(),
		},
		Rotation:  relay.Rotation{Every: e.GetRotation().GetEvery().AsDuration(), Overlap: e.GetRotation().GetOverlap().AsDuration()},
		BasicUser: e.GetBasicAuth().GetUsername(), BasicPass: relay.NewSecret(e.GetBasicAuth().GetPassword()),
		Bearer: relay.NewSecret(e.GetBearerToken()), Secret: relay.NewSecret(e.GetSecret()),
	}
	for _, h := range e.GetHeaders() {
		s.Headers = append(s.Headers, relay.Header{Name: h.GetName(), Value: relay.NewSecret(h.GetValue())})
	}
	return s
}

func redactionOf(r *sealpostv1.Redaction) relay.Redaction {
	out := relay.Redaction{
		Mode: relay.RedactionMode(enumName(r.GetMode())), Allow: r.GetAllow(), Drop: r.GetDrop(), Pseudonymize: r.GetPseudonymize(),
	}
	for _, m := range r.GetMask() {
		out.Mask = append(out.Mask, relay.Mask{Path: m.GetPath(), KeepLast: int(m.GetKeepLast())})
	}
	return out
}

// endpointOf shows an endpoint to who may see it: no secret of it.
func endpointOf(e *registry.Endpoint) *sealpostv1.Endpoint {
	out := settingsOf(e.Endpoint)
	if e.Record == nil {
		return out
	}
	out.SigningKeys = signingKeysOf(e)
	// The URL is shown as it was asked for: what it may be was checked then, and is again when it is approved.
	if in, err := relay.ParseEndpointURL(e.Record.Settings.URL, true); err == nil {
		out.Url = in.String() // also where it cannot be used now, as http without --dev
	}
	out.Proof = proofOf(&e.Record.Proof)
	if e.Record.Proposed == nil {
		return out
	}
	p := e.Record.Proposed
	u, _ := relay.ParseEndpointURL(p.Settings.URL, true)
	asked := &relay.Endpoint{
		ID: e.ID, Tenant: e.Tenant, URL: u, Owner: p.Settings.Owner, Purpose: p.Settings.Purpose, Description: p.Settings.Description,
		EventTypes: p.Settings.EventTypes, Filter: p.Settings.Filter, Scheme: p.Settings.Scheme, ContentMode: p.Settings.ContentMode,
		Redaction: p.Settings.Redaction, ChunkBytes: p.Settings.ChunkBytes, ChunkArray: p.Settings.ChunkArray,
		Concurrency: p.Settings.Concurrency, Ordered: p.Settings.Ordered, RateLimit: p.Settings.RateLimit,
		Timeout: p.Settings.Timeout, RetryFor: p.Settings.RetryFor, HTTP2: p.Settings.HTTP2, TLS: p.Settings.TLS, Rotation: p.Settings.Rotation,
		BasicUser: p.Settings.BasicUser, Environment: p.Settings.Environment, DataScope: p.Settings.DataScope,
	}
	for _, h := range p.Settings.Headers {
		asked.Headers = append(asked.Headers, relay.Header{Name: h.Name})
	}
	out.Proposal = &sealpostv1.Proposal{Endpoint: settingsOf(asked), Author: p.Author, CreateTime: stamp(p.Time)}
	out.Proposal.Endpoint.Proof = proofOf(&p.Proof)
	return out
}

func settingsOf(e *relay.Endpoint) *sealpostv1.Endpoint {
	out := &sealpostv1.Endpoint{
		Id: e.ID, Tenant: e.Tenant, Url: e.URL.String(), Owner: e.Owner, Purpose: e.Purpose, Description: e.Description,
		EventTypes: e.EventTypes, Filter: e.Filter, Scheme: string(e.Scheme), ContentMode: string(e.ContentMode),
		Redaction: &sealpostv1.Redaction{
			Mode:  enumValue[sealpostv1.Redaction_Mode](string(e.Redaction.Mode)),
			Allow: e.Redaction.Allow, Drop: e.Redaction.Drop, Pseudonymize: e.Redaction.Pseudonymize,
		},
		ChunkBytes: int32(e.ChunkBytes), ChunkArray: e.ChunkArray, Concurrency: int32(e.Concurrency), Ordered: e.Ordered,
		RateLimit: &sealpostv1.RateLimit{RequestsPerSecond: e.RateLimit},
		Timeout:   durationpb.New(e.Timeout), RetryFor: durationpb.New(e.RetryFor), Http2: e.HTTP2,
		Tls: &sealpostv1.Tls{
			ClientCertificate: enumValue[sealpostv1.Tls_ClientCertificate](string(e.TLS.ClientCertificate)),
			CaPem:             e.TLS.CAPEM, SpkiPins: e.TLS.SPKIPins, AllowTls12: e.TLS.AllowTLS12,
		},
		State: enumValue[sealpostv1.Endpoint_State](string(e.State)), StateReason: e.StateReason,
		Registrant: e.Registrant, Approver: e.Approver,
		CreateTime: stamp(e.CreateTime), UpdateTime: stamp(e.UpdateTime), ApproveTime: stamp(e.ApproveTime),
		Etag: etagOf(e.Revision), Replayable: e.Scheme.Facts().Replayable, ClientCertificateRotateTime: stamp(e.CertificateTime),
		Reviewer:   e.Reviewer,
		ReviewTime: stamp(e.ReviewTime), Environment: enumValue[sealpostv1.Endpoint_Environment](string(e.Environment)), DataScope: e.DataScope,
	}
	for _, m := range e.Redaction.Mask {
		out.Redaction.Mask = append(out.Redaction.Mask, &sealpostv1.Mask{Path: m.Path, KeepLast: int32(m.KeepLast)})
	}
	for _, h := range e.Headers {
		out.Headers = append(out.Headers, &sealpostv1.Header{Name: h.Name})
	}
	if e.Rotation.Every > 0 {
		out.Rotation = &sealpostv1.Rotation{Every: durationpb.New(e.Rotation.Every), Overlap: durationpb.New(e.Rotation.OverlapOrDefault())}
	}
	if e.BasicUser != "" {
		out.BasicAuth = &sealpostv1.BasicAuth{Username: e.BasicUser}
	}
	return out
}

// etagOf is the revision in hex; empty where there is none, as in a proposal.
func etagOf(revision uint64) string {
	if revision == 0 {
		return ""
	}
	return strconv.FormatUint(revision, 16)
}

// revisionOf reads an etag; 0, no condition, where there is none.
func revisionOf(etag string) (uint64, error) {
	if etag == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(strings.Trim(etag, `"`), 16, 64)
	if err != nil || n == 0 {
		return 0, relay.Invalid{{Field: "etag", Rule: "is not one of this API's"}}
	}
	return n, nil
}

// maskOf gives the paths of an update in JSON names, as the mask, the body or the message has them: in that order,
// the first that there is.
func maskOf(ctx context.Context, r *sealpostv1.UpdateEndpointRequest) ([]string, error) {
	paths := r.GetUpdateMask().GetPaths()
	if len(paths) == 0 {
		if present, ok := presentFields(ctx); ok {
			paths = present
		} else {
			paths = populated(r.GetEndpoint().ProtoReflect(), "")
		}
	}
	out := make([]string, 0, len(paths))
	var bad relay.Invalid
	for _, p := range paths {
		name, ok := jsonPath((&sealpostv1.Endpoint{}).ProtoReflect().Descriptor(), p)
		switch {
		case !ok && len(bad) < maxViolations:
			bad.Add("updateMask", "%q is no field of an endpoint", shown(p))
		case ok && !outputOnly(strings.SplitN(name, ".", 2)[0]):
			out = append(out, name)
		}
	}
	if bad == nil && len(out) == 0 {
		bad.Add("updateMask", "names no field that can be changed")
	}
	return out, bad.Err()
}

// outputOnly fields are passed over in what callers send (AIP-203); id and etag say which endpoint is meant.
func outputOnly(name string) bool {
	switch name {
	case "id", "tenant", "etag", "state", "stateReason", "registrant", "approver", "createTime", "updateTime", "approveTime", "proposal",
		"signingKeys", "clientCertificateRotateTime", "proof", "reviewTime", "reviewer", "reviewDueTime":
		return true
	}
	return false
}

// populated lists the fields of a message that have a value; a list or a message of protobuf's own counts as a whole.
func populated(m protoreflect.Message, path string) (paths []string) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		at := join(path, f.JSONName())
		if f.Message() != nil && !f.IsList() && !wellKnown(f.Message()) {
			if inner := populated(v.Message(), at); len(inner) > 0 {
				paths = append(paths, inner...)
				return true
			}
		}
		paths = append(paths, at)
		return true
	})
	return paths
}

// jsonPath gives a path in either naming in JSON names, if it leads to a field.
func jsonPath(schema protoreflect.MessageDescriptor, path string) (string, bool) {
	var out string
	for part := range strings.SplitSeq(path, ".") {
		if schema == nil {
			return "", false
		}
		f := schema.Fields().ByJSONName(part)
		if f == nil {
			f = schema.Fields().ByTextName(part)
		}
		if f == nil {
			return "", false
		}
		out, schema = join(out, f.JSONName()), nil
		if f.Message() != nil && !f.IsList() && !wellKnown(f.Message()) {
			schema = f.Message()
		}
	}
	return out, true
}

// enumName is a value's name; "" for the first, which stands for none, and for a number that is no value.
func enumName(e protoreflect.Enum) string {
	if e.Number() == 0 {
		return ""
	}
	v := e.Descriptor().Values().ByNumber(e.Number())
	if v == nil {
		return strconv.Itoa(int(e.Number())) // no rule accepts it
	}
	return string(v.Name())
}

// enumValue is the value of a name; the first where there is none of it.
func enumValue[E interface {
	~int32
	protoreflect.Enum
}](name string) E {
	var zero E
	v := zero.Descriptor().Values().ByName(protoreflect.Name(name))
	if v == nil {
		return zero
	}
	return E(v.Number())
}
