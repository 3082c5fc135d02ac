package api

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/control"
)

// TestAuditOverBothFaces: every field of an entry comes out, and every one of a request goes in.
func TestAuditOverBothFaces(t *testing.T) {
	t.Parallel()
	f := serve(t, newDoor(), nil)
	c := sealpostv1.NewAuditServiceClient(f.conn)
	ctx := as(t.Context(), "good")
	page, err := c.ListAuditEntries(ctx, &sealpostv1.ListAuditEntriesRequest{Tenant: "acme", Act: "endpoint.*", Outcome: sealpostv1.AuditEntry_ALLOWED, PageSize: 5})
	if err != nil || len(page.GetEntries()) != 1 || page.GetNextPageToken() != "more" {
		t.Fatalf("%v, %v", page, err)
	}
	e := page.GetEntries()[0]
	fields := e.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if !e.ProtoReflect().Has(fields.Get(i)) {
			t.Errorf("%s does not come out", fields.Get(i).Name())
		}
	}
	if got := e.GetBefore().AsMap(); got["a"].(map[string]any)["b"].([]any)[0] != 1.0 {
		t.Errorf("before: %v", got)
	}
	stream, err := c.WatchAuditEntries(ctx, &sealpostv1.WatchAuditEntriesRequest{Act: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if one, err := stream.Recv(); err != nil || one.GetEntry().GetSequence() != 3 {
		t.Errorf("%v, %v", one, err)
	}
	export, err := c.ExportAudit(ctx, &sealpostv1.ExportAuditRequest{FirstSequence: 4})
	n := 0
	for err == nil {
		var m *sealpostv1.ExportAuditResponse
		if m, err = export.Recv(); err == nil {
			n += len(m.GetData())
		}
	}
	if n != backupBytes || !errors.Is(err, io.EOF) {
		t.Errorf("export: %d bytes, %v", n, err)
	}
	for path, want := range map[string]string{
		"/v1/audit?act=endpoint.*&outcome=REFUSED&pageSize=3": `"sequence":"3"`,
		"/v1/audit:checkpoint":                                `"broken":"truncated"`,
		"/v1/audit:prove?sequence=17":                         `"proof":"proof"`,
		"/v1/audit:prove?oldSize=17":                          `"proof":"proof"`,
		"/v1/audit:watch?act=token.*":                         `"result":{"entry":{"sequence":"3"`,
	} {
		a := f.call(t, http.MethodGet, path, "")
		if a.code != http.StatusOK || !strings.Contains(strings.ReplaceAll(a.body, " ", ""), want) {
			t.Errorf("%s: %d %s", path, a.code, a.body)
		}
	}
	for _, path := range []string{"/v1/audit:prove", "/v1/audit:prove?sequence=1&oldSize=1", "/v1/audit?actor=x", "/v1/audit:prove?sequence=9223372036854775808"} {
		if a := f.call(t, http.MethodGet, path, ""); a.code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", path, a.code, a.body)
		}
	}
	if len(f.door.noted) != 0 {
		t.Errorf("noted: %v", f.door.noted)
	}
	if _, err := c.GetAuditCheckpoint(as(t.Context(), "revoked"), &sealpostv1.GetAuditCheckpointRequest{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("revoked: %v", err)
	}
	want := "/sealpost.v1.AuditService/GetAuditCheckpoint 127.0.0.1 " + access.ErrRevoked.Error()
	if len(f.door.noted) != 1 || f.door.noted[0] != want {
		t.Errorf("noted: %v", f.door.noted)
	}
	f.door.failing(&control.ForbiddenError{Scope: "audit.read", Reason: "no"})
	if _, err := c.AcceptAuditBreak(ctx, &sealpostv1.AcceptAuditBreakRequest{Reason: "x"}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("refused: %v", err)
	}
}
