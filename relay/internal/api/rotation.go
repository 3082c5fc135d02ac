package api

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/control"
	"github.com/sealpost/sealpost/relay/internal/registry"
)

// RotateSecret gives an endpoint a new signing key; its secret is in the answer, this once.
func (s *endpointService) RotateSecret(ctx context.Context, r *sealpostv1.RotateSecretRequest) (*sealpostv1.RotateSecretResponse, error) {
	ref, err := refOf(r.GetId(), r.GetTenant(), r.GetEtag())
	if err != nil {
		return nil, err
	}
	asked := control.Rotation{Secret: relay.NewSecret(r.GetSecret()), Revoke: r.GetRevoke(), Reason: r.GetReason()}
	if r.GetOverlap() != nil {
		if err := r.GetOverlap().CheckValid(); err != nil {
			return nil, relay.Invalid{{Field: "overlap", Rule: "is not a duration"}}
		}
		overlap := r.GetOverlap().AsDuration()
		asked.Overlap = &overlap
	}
	made, err := s.endpoints.RotateSecret(ctx, callerOf(ctx), ref, asked)
	if err != nil {
		return nil, err
	}
	out := &sealpostv1.RotateSecretResponse{Endpoint: endpointOf(made.Endpoint), KeyId: made.KeyID}
	if !made.Secret.Empty() {
		out.Secret = proto.String(made.Secret.Reveal())
	}
	if made.PublicPEM != "" {
		out.PublicKeyPem = &made.PublicPEM
	}
	return out, nil
}

// ActivateSecret makes the next signing key the current one.
func (s *endpointService) ActivateSecret(ctx context.Context, r *sealpostv1.ActivateSecretRequest) (*sealpostv1.Endpoint, error) {
	ref, err := refOf(r.GetId(), r.GetTenant(), r.GetEtag())
	if err != nil {
		return nil, err
	}
	return shownEndpoint(s.endpoints.ActivateSecret(ctx, callerOf(ctx), ref))
}

// ClaimSecret shows the next key's secret, once.
func (s *endpointService) ClaimSecret(ctx context.Context, r *sealpostv1.ClaimSecretRequest) (*sealpostv1.ClaimSecretResponse, error) {
	ref, err := refOf(r.GetId(), r.GetTenant(), r.GetEtag())
	if err != nil {
		return nil, err
	}
	claimed, err := s.endpoints.ClaimSecret(ctx, callerOf(ctx), ref)
	if err != nil {
		return nil, err
	}
	return &sealpostv1.ClaimSecretResponse{Endpoint: endpointOf(claimed.Endpoint), Secret: claimed.Secret.Reveal(), KeyId: claimed.KeyID}, nil
}

// RevokeSecret takes a signing key out of use.
func (s *endpointService) RevokeSecret(ctx context.Context, r *sealpostv1.RevokeSecretRequest) (*sealpostv1.Endpoint, error) {
	ref, err := refOf(r.GetId(), r.GetTenant(), r.GetEtag())
	if err != nil {
		return nil, err
	}
	return shownEndpoint(s.endpoints.RevokeSecret(ctx, callerOf(ctx), ref, r.GetKeyId(), r.GetReason()))
}

// signingKeysOf is what may be known of an endpoint's keys.
func signingKeysOf(e *registry.Endpoint) []*sealpostv1.SigningKey {
	var out []*sealpostv1.SigningKey
	for _, k := range e.Record.Keys {
		out = append(out, &sealpostv1.SigningKey{
			Id: k.ID, State: enumValue[sealpostv1.SigningKey_State](string(k.State)), Algorithm: k.Algorithm(),
			CreateTime: stamp(k.CreateTime), ActivateTime: stamp(k.ActivateTime), ExpireTime: stamp(k.ExpireTime), Unclaimed: k.Unclaimed,
		})
	}
	return out
}

// RotateClientCertificate has a new client certificate presented to the endpoint.
func (s *endpointService) RotateClientCertificate(ctx context.Context, r *sealpostv1.RotateClientCertificateRequest) (*sealpostv1.Endpoint, error) {
	ref, err := refOf(r.GetId(), r.GetTenant(), r.GetEtag())
	if err != nil {
		return nil, err
	}
	return shownEndpoint(s.endpoints.RotateClientCertificate(ctx, callerOf(ctx), ref, r.GetReason()))
}
