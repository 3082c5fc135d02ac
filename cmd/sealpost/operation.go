package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay/client"
)

func newOperation(conn *connection) *cobra.Command {
	cmd := group("operation", "See what takes longer than a call, such as replays, and end it", "  sealpost operation list --state running")
	cmd.AddCommand(
		newOperationList(conn),
		operationAct(conn, "show", "Show an operation and how far it is", func(cmd *cobra.Command, c *client.Client, id, tenant string) error {
			op, err := sealpostv1.NewOperationServiceClient(c.Conn()).GetOperation(cmd.Context(), &sealpostv1.GetOperationRequest{Id: id, Tenant: tenant})
			if err != nil {
				return err
			}
			return showOperation(cmd, op)
		}),
		operationAct(conn, "cancel", "End an operation that is not done; what it did stays done", func(cmd *cobra.Command, c *client.Client, id, tenant string) error {
			op, err := sealpostv1.NewOperationServiceClient(c.Conn()).CancelOperation(cmd.Context(), &sealpostv1.CancelOperationRequest{Id: id, Tenant: tenant})
			if err != nil {
				return err
			}
			return showOperation(cmd, op)
		}),
		operationAct(conn, "wait", "Wait until an operation has ended, and fail unless it succeeded", func(cmd *cobra.Command, c *client.Client, id, tenant string) error {
			op, err := sealpostv1.NewOperationServiceClient(c.Conn()).GetOperation(cmd.Context(), &sealpostv1.GetOperationRequest{Id: id, Tenant: tenant})
			if err != nil {
				return err
			}
			return awaitOperation(cmd, c, op)
		}),
	)
	return cmd
}

func operationAct(conn *connection, name, short string, do func(cmd *cobra.Command, c *client.Client, id, tenant string) error) *cobra.Command {
	cmd := &cobra.Command{
		Use: name + " ID", Short: short, Args: cobra.ExactArgs(1),
		Example: fmt.Sprintf("  sealpost operation %s op_0123456789abcdef --tenant acme", name),
	}
	tenant := cmd.Flags().String("tenant", "", "tenant of the operation")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		return withClient(conn, func(c *client.Client) error { return do(cmd, c, args[0], *tenant) })
	}
	return cmd
}

func newOperationList(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List operations, the newest first", Args: cobra.NoArgs,
		Example: "  sealpost operation list --tenant acme --kind replay --state running",
	}
	f := cmd.Flags()
	tenant := f.String("tenant", "", "only of this tenant")
	kind := f.String("kind", "", "only of this kind: replay, erasure")
	state := f.String("state", "", "only in this state: pending, running, succeeded, failed, cancelled")
	limit := f.Int("limit", 50, "how many, at most")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		request := &sealpostv1.ListOperationsRequest{Tenant: *tenant}
		if *kind != "" {
			n, err := enum(sealpostv1.Operation_Kind_value, "kind", *kind)
			if err != nil {
				return err
			}
			request.Kind = sealpostv1.Operation_Kind(n)
		}
		if *state != "" {
			n, err := enum(sealpostv1.Operation_State_value, "state", *state)
			if err != nil {
				return err
			}
			request.State = sealpostv1.Operation_State(n)
		}
		return withClient(conn, func(c *client.Client) error {
			list := &sealpostv1.ListOperationsResponse{}
			err := pages(*limit, func(size int32, token string) (int, string, error) {
				request.PageSize, request.PageToken = size, token
				page, err := sealpostv1.NewOperationServiceClient(c.Conn()).ListOperations(cmd.Context(), request)
				list.Operations = append(list.Operations, page.GetOperations()...)
				list.NextPageToken = page.GetNextPageToken()
				return len(page.GetOperations()), page.GetNextPageToken(), err
			})
			if err != nil {
				return err
			}
			return show(cmd, list, func(w io.Writer) {
				row(w, "ID", "BEGUN", "TENANT", "KIND", "STATE", "DONE", "LEFT ALONE", "PROGRESS", "AUTHOR", "REASON")
				for _, op := range list.GetOperations() {
					p := op.GetProgress()
					row(w, op.GetId(), when(op.GetCreateTime()), op.GetTenant(), op.GetKind(), op.GetState(), p.GetDone(), p.GetSkipped(),
						fmt.Sprintf("%.0f %%", 100*p.GetFraction()), op.GetAuthor(), dash(op.GetReason()))
				}
			})
		})
	}
	return cmd
}

func showOperation(cmd *cobra.Command, op *sealpostv1.Operation) error {
	return show(cmd, op, func(w io.Writer) {
		row(w, "id", op.GetId())
		row(w, "tenant", op.GetTenant())
		row(w, "kind", op.GetKind())
		row(w, "state", op.GetState(), op.GetError())
		row(w, "begun", when(op.GetCreateTime()), op.GetAuthor())
		row(w, "reason", dash(op.GetReason()))
		row(w, "ended", when(op.GetEndTime()))
		p := op.GetProgress()
		row(w, "progress", fmt.Sprintf("%.0f %%", 100*p.GetFraction()))
		row(w, "done", p.GetDone())
		row(w, "left alone", p.GetSkipped())
		if r := op.GetReplay(); r != nil {
			row(w, "endpoint", dash(r.GetEndpointId()))
			row(w, "types", dash(strings.Join(r.GetEventTypes(), " ")))
			row(w, "accepted", span(r.GetAfter(), r.GetBefore()))
			row(w, "states", statesOf(r))
			row(w, "at most", fmt.Sprintf("%g a second", r.GetDeliveriesPerSecond()))
		}
		if d := op.GetSubjectDigest(); d != "" {
			row(w, "subject digest", d)
		}
	})
}

func span(after, before *timestamppb.Timestamp) string {
	if after == nil {
		return "before " + when(before)
	}
	return when(after) + " to " + when(before)
}

func statesOf(r *sealpostv1.Replay) string {
	var out []string
	for _, s := range r.GetStates() {
		out = append(out, s.String())
	}
	if r.GetMissing() {
		out = append(out, "missing")
	}
	return strings.Join(out, " ")
}
