package api

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay/internal/access"
)

// Authenticator says who calls. Its errors are access's.
type Authenticator interface {
	Authenticate(ctx context.Context, p access.Presented) (access.Caller, error)
}

// Noter is told of calls whose credential is not good; control has its contract. It may be called concurrently.
type Noter interface {
	NoteUnauthenticated(ctx context.Context, method string, from netip.Addr, why error)
}

// guard stands before every method: it finds the caller, counts, translates errors, and keeps a panic from
// ending the process or telling the caller anything.
type guard struct {
	auth    Authenticator
	noter   Noter
	metrics *metrics
	log     *slog.Logger
	level   slog.Level // of the line that each call leaves in the log
}

type callerKey struct{}

// withCaller marks who calls. Only this package can: the key is its own.
func withCaller(ctx context.Context, c access.Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// callerOf is who calls; the zero Caller, who may do nothing, where nobody was found.
func callerOf(ctx context.Context) access.Caller {
	c, _ := ctx.Value(callerKey{}).(access.Caller)
	return c
}

// public are the services that anybody may call: they tell what the published API description tells, and that the
// process runs.
func public(method string) bool {
	return strings.HasPrefix(method, "/grpc.health.v1.Health/") || strings.HasPrefix(method, "/grpc.reflection.")
}

// open are the methods that anybody may call: the public ones, and those by which a person gets a credential.
func open(method string) bool {
	return public(method) || method == sealpostv1.AccessService_BeginSignIn_FullMethodName || method == sealpostv1.AccessService_CompleteSignIn_FullMethodName
}

func (g *guard) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	began := time.Now()
	var trace access.Trace
	defer func() {
		if p := recover(); p != nil {
			resp, err = nil, g.panicked(info.FullMethod, p)
		}
		err = g.translate(info.FullMethod, err)
		if !public(info.FullMethod) {
			g.metrics.call(info.FullMethod, status.Code(err), time.Since(began))
			g.note(ctx, info.FullMethod, &trace, status.Code(err), time.Since(began))
		}
	}()
	admitted, err := g.admit(ctx, info.FullMethod, &trace)
	if err != nil {
		return nil, err
	}
	ctx = admitted
	return handler(ctx, req)
}

func (g *guard) stream(service any, s grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	began, ctx := time.Now(), s.Context()
	var trace access.Trace
	defer func() {
		if p := recover(); p != nil {
			err = g.panicked(info.FullMethod, p)
		}
		err = g.translate(info.FullMethod, err)
		if !public(info.FullMethod) {
			g.metrics.stream(info.FullMethod, status.Code(err))
			g.note(ctx, info.FullMethod, &trace, status.Code(err), time.Since(began))
		}
	}()
	known, err := g.admit(ctx, info.FullMethod, &trace)
	if err != nil {
		return err
	}
	ctx = known
	return handler(service, admitted{s, ctx})
}

// note leaves a line in the log of who called what, by which credential, from where.
func (g *guard) note(ctx context.Context, method string, trace *access.Trace, code codes.Code, took time.Duration) {
	if !g.log.Enabled(ctx, g.level) {
		return
	}
	c := callerOf(ctx)
	if !c.Address.IsValid() {
		c.Address = peerAddress(ctx)
	}
	g.log.Log(ctx, g.level, "call", "method", method, "code", code.String(), "took", took, "account", c.Account, "tenant", c.Tenant,
		"scope", trace.Scope(), "credential_kind", c.CredentialKind, "credential", c.CredentialID, "address", c.Address,
		"certificate_subject", c.CertificateSubject, "certificate_sha256", c.CertificateSHA256)
}

// admitted is a stream whose caller is known.
type admitted struct {
	grpc.ServerStream
	ctx context.Context
}

// Context names the caller.
func (a admitted) Context() context.Context { return a.ctx }

// admit authenticates a call, unless the HTTP side has before it read the body. What the caller does is noted in trace.
func (g *guard) admit(ctx context.Context, method string, trace *access.Trace) (context.Context, error) {
	if open(method) {
		return ctx, nil
	}
	if c := callerOf(ctx); c.Account != "" {
		return withCaller(ctx, c.Traced(trace)), nil
	}
	md, _ := metadata.FromIncomingContext(ctx)
	var chain []*x509.Certificate
	if p, ok := peer.FromContext(ctx); ok {
		if secure, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			chain = secure.State.PeerCertificates
		}
	}
	caller, err := g.authenticate(ctx, method, md.Get("authorization"), peerAddress(ctx), chain)
	if err != nil {
		return ctx, err
	}
	return withCaller(ctx, caller.Traced(trace)), nil
}

func peerAddress(ctx context.Context) netip.Addr {
	if p, ok := peer.FromContext(ctx); ok {
		return addressOf(p.Addr)
	}
	return netip.Addr{}
}

// authenticate finds who calls a method, and has it noted where the credential is not good.
func (g *guard) authenticate(ctx context.Context, method string, headers []string, from netip.Addr, chain []*x509.Certificate) (access.Caller, error) {
	caller, err := g.holder(ctx, headers, from, chain)
	if err != nil {
		g.noter.NoteUnauthenticated(ctx, method, from, err)
	}
	return caller, err
}

// holder takes at most one bearer token (RFC 6750, section 2.1), and the client certificate that the connection was made with.
func (g *guard) holder(ctx context.Context, headers []string, from netip.Addr, chain []*x509.Certificate) (access.Caller, error) {
	given := access.Presented{Address: from, Chain: chain}
	if len(headers) > 0 {
		scheme, token, ok := strings.Cut(headers[0], " ")
		given.Token = strings.TrimLeft(token, " ")
		if len(headers) > 1 || !ok || given.Token == "" || !strings.EqualFold(scheme, "Bearer") {
			return access.Caller{}, access.ErrToken
		}
	}
	caller, err := g.auth.Authenticate(ctx, given)
	if err == nil && caller.Account == "" {
		err = access.ErrToken
	}
	return caller, err
}

// translate gives err as a status, and logs what the caller is not told.
func (g *guard) translate(method string, err error) error {
	if err == nil {
		return nil
	}
	s := statusOf(err)
	if s.Code() == codes.Internal {
		g.log.Error("call failed", "method", method, "error", err)
	}
	return s.Err()
}

// panicked logs where a handler panicked. What it panicked with is not logged: it could quote an event.
func (g *guard) panicked(method string, p any) error {
	kind := "panic"
	if err, ok := p.(runtime.Error); ok {
		kind = err.Error() // an index, a nil pointer: no content
	}
	g.log.Error("handler panicked", "method", method, "kind", kind, "stack", string(debug.Stack()))
	return status.Error(codes.Internal, "internal error")
}

func addressOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	if a == nil {
		return netip.Addr{}
	}
	if ap, err := netip.ParseAddrPort(a.String()); err == nil {
		return ap.Addr().Unmap()
	}
	return netip.Addr{}
}
