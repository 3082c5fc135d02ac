package api

import (
	"context"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/control"
	"github.com/sealpost/sealpost/relay/internal/onboard"
	"github.com/sealpost/sealpost/relay/internal/registry"
)

// VerifyEndpoint says what is to be put where, and looks for it; what is not there is an answer.
func (s *endpointService) VerifyEndpoint(ctx context.Context, r *sealpostv1.VerifyEndpointRequest) (*sealpostv1.VerifyEndpointResponse, error) {
	v, err := s.endpoints.VerifyEndpoint(ctx, callerOf(ctx), control.Ref{Tenant: r.GetTenant(), ID: r.GetId()}, r.GetInstructionsOnly(), r.GetSignature())
	if err != nil {
		return nil, err
	}
	out := &sealpostv1.VerifyEndpointResponse{
		Endpoint: s.endpointOf(v.Endpoint), Host: v.Challenge.Host, Proven: v.Proven,
		Challenge: &sealpostv1.VerifyEndpointResponse_Challenge{
			FileUrl: v.Challenge.FileURL(v.Endpoint.ID).String(), FileContent: v.Challenge.Value, Nonce: v.Challenge.Nonces[0],
		},
	}
	if name := v.Challenge.DNSName(); name != "" {
		out.Challenge.DnsName, out.Challenge.DnsValue = name, v.Challenge.Value
	}
	for _, c := range v.Checks {
		out.Checks = append(out.Checks, &sealpostv1.VerifyEndpointResponse_Check{
			Method: enumValue[sealpostv1.DomainProof_Method](string(c.Method)), Passed: c.Passed, Detail: c.Detail,
		})
	}
	return out, nil
}

// ReviewEndpoint shows what an approval would put in force.
func (s *endpointService) ReviewEndpoint(ctx context.Context, r *sealpostv1.ReviewEndpointRequest) (*sealpostv1.EndpointReview, error) {
	v, err := s.endpoints.ReviewEndpoint(ctx, callerOf(ctx), control.Ref{Tenant: r.GetTenant(), ID: r.GetId()})
	if err != nil {
		return nil, err
	}
	out := &sealpostv1.EndpointReview{
		Endpoint: s.endpointOf(v.Endpoint), Approved: settingsOf(v.Wanted.Endpoint), Warnings: v.Warnings, Action: string(v.Action), BlockedBy: v.Blocked,
		Server: serverOf(&v.Server),
	}
	for _, c := range v.Changes {
		out.Changes = append(out.Changes, &sealpostv1.EndpointReview_Change{Field: c.Field, Before: c.Before, After: c.After})
	}
	for i := range v.Samples {
		out.Samples = append(out.Samples, sampleOf(&v.Samples[i]))
	}
	return out, nil
}

func sampleOf(s *control.Sample) *sealpostv1.EndpointReview_Sample {
	out := &sealpostv1.EndpointReview_Sample{
		EventType: s.EventType, Entry: eventTypeEntry(s.Entry), Body: strings.ToValidUTF8(string(s.Body), ""), ContentType: s.ContentType,
		FilterMatches: s.FilterMatches, WithheldReason: string(s.Withheld),
	}
	for _, f := range s.Fields {
		out.Fields = append(out.Fields, &sealpostv1.EndpointReview_Field{Path: f.Path, Fate: enumValue[sealpostv1.EndpointReview_Field_Fate](string(f.Fate))})
	}
	return out
}

func serverOf(s *onboard.Server) *sealpostv1.EndpointReview_Server {
	return &sealpostv1.EndpointReview_Server{
		Addresses: s.Addresses, CertificateSubject: s.Subject, CertificateIssuer: s.Issuer, CertificateNames: s.Names, CertificateSha256: s.SHA256,
		CertificateStartTime: stamp(s.Start), CertificateExpireTime: stamp(s.Expire), TlsVersion: s.TLSVersion, AsksClientCertificate: s.AsksForOurs,
		Error: s.Error,
	}
}

func proofOf(p *registry.Proof) *sealpostv1.DomainProof {
	if p.Host == "" {
		return nil
	}
	return &sealpostv1.DomainProof{
		Host: p.Host, Method: enumValue[sealpostv1.DomainProof_Method](string(p.Method)), ProveTime: stamp(p.Time), DueTime: stamp(p.DueTime),
		FailTime: stamp(p.FailTime), CertificateExpireTime: stamp(p.CertificateExpireTime),
	}
}

func phasesOf(a *relay.Attempt) []*sealpostv1.TestEndpointResponse_Phase {
	var out []*sealpostv1.TestEndpointResponse_Phase
	for _, p := range onboard.Phases(a) {
		out = append(out, &sealpostv1.TestEndpointResponse_Phase{
			Name:    enumValue[sealpostv1.TestEndpointResponse_Phase_Name](p.Name),
			Outcome: enumValue[sealpostv1.TestEndpointResponse_Phase_Outcome](p.Outcome), Duration: durationpb.New(p.Duration), Detail: p.Detail,
		})
	}
	return out
}

// ListInventory is a page of the inventory.
func (s *endpointService) ListInventory(ctx context.Context, r *sealpostv1.ListInventoryRequest) (*sealpostv1.ListInventoryResponse, error) {
	q := control.InventoryQuery{
		Tenant: r.GetTenant(), State: relay.EndpointState(enumName(r.GetState())), Environment: relay.Environment(enumName(r.GetEnvironment())),
		Owner: r.GetOwner(), ReviewOverdue: r.GetReviewOverdue(), ApprovalPending: r.GetApprovalPending(), StaticCredentials: r.GetStaticCredentials(),
		PageSize: int(r.GetPageSize()), PageToken: r.GetPageToken(),
	}
	if t := r.GetUnusedSince(); t != nil {
		if t.CheckValid() != nil {
			return nil, relay.Invalid{{Field: "unusedSince", Rule: "must be a time between the years 1970 and 9999"}}
		}
		q.UnusedSince = t.AsTime()
	}
	page, err := s.endpoints.ListInventory(ctx, callerOf(ctx), q)
	if err != nil {
		return nil, err
	}
	out := &sealpostv1.ListInventoryResponse{NextPageToken: page.NextPageToken}
	for i := range page.Items {
		out.Entries = append(out.Entries, inventoryEntry(&page.Items[i]))
	}
	return out, nil
}

func inventoryEntry(i *control.Item) *sealpostv1.InventoryEntry {
	out := &sealpostv1.InventoryEntry{
		EndpointId: i.ID, Tenant: i.Tenant, Url: i.URL.String(), Owner: i.Owner, Purpose: i.Purpose,
		Environment: enumValue[sealpostv1.Endpoint_Environment](string(i.Environment)), State: enumValue[sealpostv1.Endpoint_State](string(i.State)),
		Objects: i.Objects, Fields: i.Fields, EventTypes: i.EventTypes, AuthMethods: i.AuthMethods, ShortLived: i.ShortLived,
		KeyId: i.KeyID, KeyCreateTime: stamp(i.KeyCreateTime), ClientCertificateExpireTime: stamp(i.ClientCertificateExpire),
		Registrant: i.Registrant, CreateTime: stamp(i.CreateTime), Approver: i.Approver, ApproveTime: stamp(i.ApproveTime),
		Reviewer: i.Reviewer, ReviewTime: stamp(i.ReviewTime), ReviewDueTime: stamp(i.ReviewDue), ReviewOverdue: i.ReviewOverdue,
		ApprovalPending: i.ApprovalPending, LastUseTime: stamp(i.LastUse),
	}
	if i.TokenLife > 0 {
		out.TokenLife = durationpb.New(i.TokenLife.Round(time.Second))
	}
	if i.Record != nil {
		out.Proof = proofOf(&i.Record.Proof)
		out.ServerCertificateExpireTime = stamp(i.Record.Proof.CertificateExpireTime)
	}
	return out
}
