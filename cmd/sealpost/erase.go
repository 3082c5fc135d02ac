package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay/client"
)

func newEventErase(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "erase", Short: "Erase every event of one subject: a person's right to be forgotten", Args: cobra.NoArgs,
		Long: `Erase every event of one subject that was accepted until now, for good.

Nothing of them is delivered, replayed or shown from then on: deliveries that are not settled end as CANCELLED, the
events are overwritten on the disk, and what receivers answered to them is taken out of the records. Ids, types and times
of the events stay until their retention ends. Events of the subject that are published later are new facts. It cannot
be taken back, and goes on when this command is ended.`,
		Example: `  sealpost event erase --tenant acme --subject contact/42 --reason "request 2026-118" --wait`,
	}
	r := &sealpostv1.EraseSubjectRequest{RequestId: rand.Text()}
	f := cmd.Flags()
	f.StringVar(&r.Tenant, "tenant", "", "tenant of the subject")
	f.StringVar(&r.Subject, "subject", "", "the subject, as its events were published with")
	f.StringVar(&r.Reason, "reason", "", "why, such as the number of the request; kept, and so without personal data")
	yes := f.Bool("yes", false, "do not ask")
	wait := f.Bool("wait", false, "return when it is done")
	for _, name := range []string{"tenant", "subject", "reason"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // the name is not that of a flag
		}
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		if !*yes {
			if err := confirm(cmd, fmt.Sprintf("Erase all events of %s in %s for good? Type yes: ", r.GetSubject(), r.GetTenant())); err != nil {
				return err
			}
		}
		return withClient(conn, func(c *client.Client) error {
			op, err := sealpostv1.NewEventServiceClient(c.Conn()).EraseSubject(cmd.Context(), r)
			if err == nil && *wait {
				op, err = awaitErasure(cmd.Context(), sealpostv1.NewOperationServiceClient(c.Conn()), op)
			}
			if err != nil {
				return err
			}
			return show(cmd, op, func(w io.Writer) {
				row(w, "operation", op.GetId())
				row(w, "state", op.GetState())
				row(w, "subject digest", op.GetSubjectDigest())
				row(w, "events looked at", op.GetProgress().GetExamined())
				row(w, "events erased", op.GetProgress().GetDone())
				row(w, "waits for", dash(op.GetError()))
			})
		})
	}
	return cmd
}

// confirm asks on the terminal, or whatever stands in for it.
func confirm(cmd *cobra.Command, question string) error {
	fmt.Fprint(cmd.ErrOrStderr(), question)
	line, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(line) != "yes" {
		return errors.New("nothing was done: it was not confirmed")
	}
	return nil
}

// erasureLook is how often awaitErasure looks.
const erasureLook = 200 * time.Millisecond

func awaitErasure(ctx context.Context, c sealpostv1.OperationServiceClient, op *sealpostv1.Operation) (*sealpostv1.Operation, error) {
	for op.GetEndTime() == nil {
		select {
		case <-time.After(erasureLook):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		var err error
		if op, err = c.GetOperation(ctx, &sealpostv1.GetOperationRequest{Id: op.GetId(), Tenant: op.GetTenant()}); err != nil {
			return nil, err
		}
	}
	if op.GetState() != sealpostv1.Operation_SUCCEEDED {
		return nil, fmt.Errorf("operation %s ended %s: %s", op.GetId(), op.GetState(), op.GetError())
	}
	return op, nil
}
