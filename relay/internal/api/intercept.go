package api

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/sealpost/sealpost/relay/internal/access"
)

// Authenticator says who holds a token. Its errors are access's.
type Authenticator interface {
	Authenticate(ctx context.Context, token string, from netip.Addr) (access.Caller, error)
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

// open are the services that anybody may call: they tell what the published API description tells, and that the
// process runs.
func open(method string) bool {
	return strings.HasPrefix(method, "/grpc.health.v1.Health/") || strings.HasPrefix(method, "/grpc.reflection.")
}

func (g *guard) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	began := time.Now()
	defer func() {
		if p := recover(); p != nil {
			resp, err = nil, g.panicked(info.FullMethod, p)
		}
		err = g.translate(info.FullMethod, err)
		if !open(info.FullMethod) {
			g.metrics.call(info.FullMethod, status.Code(err), time.Since(began))
		}
	}()
	ctx, err = g.admit(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

func (g *guard) stream(service any, s grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = g.panicked(info.FullMethod, p)
		}
		err = g.translate(info.FullMethod, err)
		if !open(info.FullMethod) {
			g.metrics.stream(info.FullMethod, status.Code(err))
		}
	}()
	ctx, err := g.admit(s.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	return handler(service, admitted{s, ctx})
}

// admitted is a stream whose caller is known.
type admitted struct {
	grpc.ServerStream
	ctx context.Context
}

// Context names the caller.
func (a admitted) Context() context.Context { return a.ctx }

// admit authenticates a call, unless the HTTP side has before it read the body.
func (g *guard) admit(ctx context.Context, method string) (context.Context, error) {
	if open(method) || callerOf(ctx).Account != "" {
		return ctx, nil
	}
	md, _ := metadata.FromIncomingContext(ctx)
	var from netip.Addr
	if p, ok := peer.FromContext(ctx); ok {
		from = addressOf(p.Addr)
	}
	caller, err := g.authenticate(ctx, method, md.Get("authorization"), from)
	if err != nil {
		return ctx, err
	}
	return withCaller(ctx, caller), nil
}

// authenticate finds who calls a method, and has it noted where the credential is not good.
func (g *guard) authenticate(ctx context.Context, method string, headers []string, from netip.Addr) (access.Caller, error) {
	caller, err := g.holder(ctx, headers, from)
	if err != nil {
		g.noter.NoteUnauthenticated(ctx, method, from, err)
	}
	return caller, err
}

// holder takes exactly one bearer token (RFC 6750, section 2.1).
func (g *guard) holder(ctx context.Context, headers []string, from netip.Addr) (access.Caller, error) {
	if len(headers) == 0 {
		return access.Caller{}, access.ErrNoToken
	}
	scheme, token, ok := strings.Cut(headers[0], " ")
	if len(headers) > 1 || !ok || !strings.EqualFold(scheme, "Bearer") {
		return access.Caller{}, access.ErrToken
	}
	caller, err := g.auth.Authenticate(ctx, strings.TrimLeft(token, " "), from)
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
