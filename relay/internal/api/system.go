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
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	go func() {
		select {
		case <-s.closing:
			cancel(errClosing)
		case <-ctx.Done():
		}
	}()
	err := s.system.BackUp(ctx, callerOf(ctx), chunks{stream})
	if context.Cause(ctx) == errClosing {
		return errClosing
	}
	return err
}

// maxBackupChunk bounds the data of one message.
const maxBackupChunk = 256 << 10

// chunks sends what is written in messages of bounded size.
type chunks struct {
	stream grpc.ServerStreamingServer[sealpostv1.BackupResponse]
}

func (c chunks) Write(b []byte) (n int, err error) {
	for n < len(b) {
		part := b[n:min(len(b), n+maxBackupChunk)]
		if err := c.stream.Send(&sealpostv1.BackupResponse{Data: part}); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}
