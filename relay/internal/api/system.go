package api

import (
	"context"
	"io"

	"google.golang.org/grpc"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay/internal/access"
)

// System is the part of the door that those who run Sealpost go through. control has its contract.
type System interface {
	BackUp(ctx context.Context, who access.Caller, to io.Writer) error
}

type systemService struct {
	sealpostv1.UnimplementedSystemServiceServer
	system  System
	closing <-chan struct{} // closed when streams are to end
}

// Backup streams a copy of everything. A stream that ends with an error is not whole.
func (s *systemService) Backup(_ *sealpostv1.BackupRequest, stream grpc.ServerStreamingServer[sealpostv1.BackupResponse]) error {
	return untilClosing(stream.Context(), s.closing, func(ctx context.Context) error {
		return s.system.BackUp(ctx, callerOf(ctx), chunks(func(data []byte) error {
			return stream.Send(&sealpostv1.BackupResponse{Data: data})
		}))
	})
}

// untilClosing runs what lasts until the caller leaves or the server stops.
func untilClosing(ctx context.Context, closing <-chan struct{}, run func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-closing:
			cancel(errClosing)
		case <-ctx.Done():
		}
	}()
	err := run(ctx)
	if context.Cause(ctx) == errClosing {
		return errClosing
	}
	return err
}

// maxChunk bounds the data of one message.
const maxChunk = 256 << 10

// chunks sends what is written in messages of bounded size.
type chunks func(data []byte) error

// Write sends b, in as many messages as it takes.
func (send chunks) Write(b []byte) (n int, err error) {
	for n < len(b) {
		part := b[n:min(len(b), n+maxChunk)]
		if err := send(part); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}
