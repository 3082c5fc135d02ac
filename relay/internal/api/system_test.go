package api

import (
	"errors"
	"io"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay/internal/control"
)

// TestBackupStream comes whole, in messages of bounded size; an error ends it as one.
func TestBackupStream(t *testing.T) {
	t.Parallel()
	f := serve(t, newDoor(), nil)
	read := func() (n int, err error) {
		stream, err := sealpostv1.NewSystemServiceClient(f.conn).Backup(as(t.Context(), "good"), &sealpostv1.BackupRequest{})
		for err == nil {
			var m *sealpostv1.BackupResponse
			if m, err = stream.Recv(); err == nil {
				n += len(m.GetData())
				if len(m.GetData()) > maxChunk {
					t.Errorf("a message of %d bytes", len(m.GetData()))
				}
			}
		}
		return n, err
	}
	if n, err := read(); n != backupBytes || !errors.Is(err, io.EOF) {
		t.Errorf("%d bytes, %v", n, err)
	}
	f.door.failing(&control.ForbiddenError{Scope: "system.backup", Reason: "no"})
	if n, err := read(); n != 0 || status.Code(err) != codes.PermissionDenied {
		t.Errorf("%d bytes, %v", n, err)
	}
}
