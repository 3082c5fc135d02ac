package api

import (
	"context"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// loopback calls the services in this process: the gateway's client. What goes over it passes the same interceptors as a
// call over gRPC, which the gateway's own in-process registration would leave out (and it has no streams); nothing
// is serialised, and the caller found by the HTTP side travels in the context, where no header can forge it.
type loopback struct {
	unary   grpc.UnaryServerInterceptor
	stream  grpc.StreamServerInterceptor
	methods map[string]localMethod
	streams map[string]localStream
}

type localMethod struct {
	service any
	desc    grpc.MethodDesc
}

type localStream struct {
	service any
	desc    grpc.StreamDesc
}

func newLoopback(unary grpc.UnaryServerInterceptor, stream grpc.StreamServerInterceptor) *loopback {
	return &loopback{unary: unary, stream: stream, methods: map[string]localMethod{}, streams: map[string]localStream{}}
}

// RegisterService makes a service callable, as grpc.Server does. All are registered before the first call.
func (l *loopback) RegisterService(desc *grpc.ServiceDesc, service any) {
	for _, m := range desc.Methods {
		l.methods["/"+desc.ServiceName+"/"+m.MethodName] = localMethod{service, m}
	}
	for _, s := range desc.Streams {
		l.streams["/"+desc.ServiceName+"/"+s.StreamName] = localStream{service, s}
	}
}

// Invoke is a unary call.
func (l *loopback) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	m, ok := l.methods[method]
	if !ok {
		return status.Error(codes.Unimplemented, "no such method")
	}
	take := func(in any) error { return request(ctx, in, args) }
	answer, err := m.desc.Handler(m.service, arriving(ctx), take, l.unary)
	if err != nil {
		return err
	}
	return copyMessage(reply, answer)
}

// NewStream is a call with a stream of answers to one request; the gateway needs no other.
func (l *loopback) NewStream(ctx context.Context, _ *grpc.StreamDesc, method string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	s, ok := l.streams[method]
	if !ok || s.desc.ClientStreams {
		return nil, status.Error(codes.Unimplemented, "no such method over this transport")
	}
	p := &pipe{ctx: ctx, answers: make(chan any), done: make(chan struct{})}
	p.run = func() {
		defer close(p.done)
		info := &grpc.StreamServerInfo{FullMethod: method, IsServerStream: true}
		p.err = l.stream(s.service, serverEnd{p, arriving(ctx)}, info, s.desc.Handler)
	}
	return clientEnd{p}, nil
}

// arriving is the context as a handler gets it: what was sent is what came.
func arriving(ctx context.Context) context.Context {
	md, _ := metadata.FromOutgoingContext(ctx)
	return metadata.NewIncomingContext(metadata.NewOutgoingContext(ctx, nil), md)
}

// request hands a handler what the gateway read, unless the query had what the method does not.
func request(ctx context.Context, to, from any) error {
	if msg, ok := from.(proto.Message); ok {
		if err := checkQuery(ctx, msg); err != nil {
			return statusOf(err).Err()
		}
	}
	return copyMessage(to, from)
}

func copyMessage(to, from any) error {
	dst, ok := to.(proto.Message)
	src, ok2 := from.(proto.Message)
	if !ok || !ok2 {
		return status.Error(codes.Internal, "not a message")
	}
	proto.Merge(dst, src)
	return nil
}

// pipe joins the two ends of a streaming call. The handler runs from the moment the request is complete until it
// returns; it ends early when ctx does.
type pipe struct {
	ctx     context.Context
	request any
	taken   bool
	run     func()
	answers chan any
	done    chan struct{} // closed when the handler has returned
	err     error         // what it returned; read after done
}

type clientEnd struct{ *pipe }

func (clientEnd) Header() (metadata.MD, error) { return nil, nil }
func (clientEnd) Trailer() metadata.MD         { return nil }
func (c clientEnd) Context() context.Context   { return c.ctx }
func (c clientEnd) SendMsg(m any) error        { c.request = m; return nil }
func (c clientEnd) CloseSend() error           { go c.run(); return nil }

func (c clientEnd) RecvMsg(m any) error {
	select {
	case answer := <-c.answers:
		return copyMessage(m, answer)
	case <-c.done:
		if c.err != nil {
			return c.err
		}
		return io.EOF
	}
}

type serverEnd struct {
	*pipe
	incoming context.Context
}

func (serverEnd) SetHeader(metadata.MD) error  { return nil }
func (serverEnd) SendHeader(metadata.MD) error { return nil }
func (serverEnd) SetTrailer(metadata.MD)       {}
func (s serverEnd) Context() context.Context   { return s.incoming }

func (s serverEnd) SendMsg(m any) error {
	select {
	case s.answers <- m:
		return nil
	case <-s.ctx.Done():
		return status.FromContextError(s.ctx.Err()).Err()
	}
}

func (s serverEnd) RecvMsg(m any) error {
	if s.taken {
		return io.EOF
	}
	s.taken = true
	return request(s.ctx, m, s.request)
}
