package main

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay/client"
)

const proofHelp = `Prove that an endpoint's host is yours. One of three is enough: a TXT record in its zone, a file that its server hands out, or a
signature by the key of the certificate that its server shows, which --certificate-key makes here: the key goes nowhere.

It prints what to put where, looks for it, and says what it found; with --wait until it is there. Leave it in place: it is looked for
again every 30 days, and an endpoint without a proof is suspended.`

// waitEvery is how often --wait looks.
const waitEvery = 5 * time.Second

func newEndpointVerify(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "verify ID", Short: "Prove that an endpoint's host is yours: what to put where, and whether it is there", Long: proofHelp, Args: cobra.ExactArgs(1),
		Example: "  sealpost endpoint verify ep_0123456789abcdef --tenant acme --wait 10m\n" +
			"  sealpost endpoint verify ep_0123456789abcdef --tenant acme --certificate-key /etc/ssl/private/hooks.key",
	}
	f := cmd.Flags()
	tenant := f.String("tenant", "", "tenant of the endpoint")
	instructions := f.Bool("instructions", false, "only say what to put where")
	wait := f.Duration("wait", 0, "look again for so long, until it is there")
	keyFile := f.String("certificate-key", "", "PEM file with the private key of the server's certificate, to sign the nonce with")
	signatureFile := f.String("signature-file", "", "file with a signature over the nonce, in base64")
	cmd.MarkFlagsMutuallyExclusive("certificate-key", "signature-file")
	cmd.MarkFlagsMutuallyExclusive("instructions", "wait")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		request := &sealpostv1.VerifyEndpointRequest{Id: args[0], Tenant: *tenant, InstructionsOnly: true}
		return withClient(conn, func(c *client.Client) error {
			service := sealpostv1.NewEndpointServiceClient(c.Conn())
			answer, err := service.VerifyEndpoint(cmd.Context(), request)
			if err != nil {
				return err
			}
			if *instructions {
				return show(cmd, answer, func(w io.Writer) { challengeRows(w, answer) })
			}
			if request.Signature, err = proofSignature(*keyFile, *signatureFile, answer.GetChallenge().GetNonce()); err != nil {
				return err
			}
			request.InstructionsOnly = false
			if answer, err = verifyUntil(cmd.Context(), service, request, time.Now().Add(*wait), cmd.ErrOrStderr(), answer); err != nil {
				return err
			}
			err = show(cmd, answer, func(w io.Writer) {
				if !answer.GetProven() {
					challengeRows(w, answer)
				}
				for _, check := range answer.GetChecks() {
					result := "no"
					if check.GetPassed() {
						result = "yes"
					}
					row(w, check.GetMethod(), result, check.GetDetail())
				}
				row(w, "proven", answer.GetProven(), "state "+answer.GetEndpoint().GetState().String())
			})
			if err == nil && !answer.GetProven() {
				err = fmt.Errorf("%s is not proven yet", answer.GetHost())
			}
			return err
		})
	}
	return cmd
}

// verifyUntil looks until there is a proof, or it is too late. Before it waits it says for what.
func verifyUntil(ctx context.Context, service sealpostv1.EndpointServiceClient, request *sealpostv1.VerifyEndpointRequest, late time.Time,
	errs io.Writer, said *sealpostv1.VerifyEndpointResponse) (*sealpostv1.VerifyEndpointResponse, error) {
	for told := false; ; {
		answer, err := service.VerifyEndpoint(ctx, request)
		if err != nil || answer.GetProven() || !time.Now().Add(waitEvery).Before(late) {
			return answer, err
		}
		if !told {
			told = true
			challengeRows(errs, said)
			fmt.Fprintln(errs, "waiting for one of them")
		}
		select {
		case <-time.After(waitEvery):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func challengeRows(w io.Writer, v *sealpostv1.VerifyEndpointResponse) {
	c := v.GetChallenge()
	row(w, "host", v.GetHost(), "one of these proves that it is yours:")
	if c.GetDnsName() != "" {
		row(w, "DNS", c.GetDnsName()+". TXT \""+c.GetDnsValue()+"\"")
	}
	row(w, "HTTPS", c.GetFileUrl(), "with the content "+c.GetFileContent())
	row(w, "CERTIFICATE", "--certificate-key FILE, or a signature over", c.GetNonce())
}

// maxKeyBytes bounds a private key's file.
const maxKeyBytes = 64 << 10

// proofSignature is the one in a file, or made with the key in a file; none where neither is named.
func proofSignature(keyFile, signatureFile, nonce string) ([]byte, error) {
	switch {
	case signatureFile != "":
		text, err := readBounded(signatureFile, maxKeyBytes)
		if err != nil {
			return nil, fmt.Errorf("signature: %w", err)
		}
		signature, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(string(text)), ""))
		if err != nil {
			return nil, fmt.Errorf("signature: %s does not hold base64", signatureFile)
		}
		return signature, nil
	case keyFile != "":
		text, err := readBounded(keyFile, maxKeyBytes)
		if err != nil {
			return nil, fmt.Errorf("certificate key: %w", err)
		}
		return signNonce(text, nonce)
	}
	return nil, nil
}

func signNonce(text []byte, nonce string) ([]byte, error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		var key any
		for _, parse := range []func([]byte) (any, error){
			x509.ParsePKCS8PrivateKey,
			func(der []byte) (any, error) { return x509.ParsePKCS1PrivateKey(der) },
			func(der []byte) (any, error) { return x509.ParseECPrivateKey(der) },
		} {
			var err error
			if key, err = parse(block.Bytes); err == nil {
				break
			}
			key = nil
		}
		signer, ok := key.(crypto.Signer)
		if !ok {
			continue
		}
		if _, ok := key.(ed25519.PrivateKey); ok {
			return signer.Sign(rand.Reader, []byte(nonce), crypto.Hash(0))
		}
		sum := sha256.Sum256([]byte(nonce))
		return signer.Sign(rand.Reader, sum[:], crypto.SHA256)
	}
	return nil, errors.New("certificate key: the file holds no private key in PEM (PKCS #8, PKCS #1 or SEC 1), without a passphrase")
}

func newEndpointReview(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "review ID", Short: "Show what would leave, where to, and what an approval would change", Args: cobra.ExactArgs(1),
		Example: "  sealpost endpoint review ep_0123456789abcdef --tenant acme",
	}
	tenant := cmd.Flags().String("tenant", "", "tenant of the endpoint")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		return withClient(conn, func(c *client.Client) error {
			answer, err := sealpostv1.NewEndpointServiceClient(c.Conn()).ReviewEndpoint(cmd.Context(),
				&sealpostv1.ReviewEndpointRequest{Id: args[0], Tenant: *tenant})
			if err != nil {
				return err
			}
			return show(cmd, answer, func(w io.Writer) { reviewRows(w, answer) })
		})
	}
	return cmd
}

func reviewRows(w io.Writer, v *sealpostv1.EndpointReview) {
	ep := v.GetApproved()
	row(w, "endpoint", v.GetEndpoint().GetId(), v.GetEndpoint().GetState())
	row(w, "registered by", v.GetEndpoint().GetRegistrant(), "for "+ep.GetOwner(), ep.GetPurpose())
	row(w, "environment", ep.GetEnvironment())
	row(w, "url", ep.GetUrl())
	s := v.GetServer()
	row(w, "addresses", dash(strings.Join(s.GetAddresses(), ", ")))
	if s.GetError() != "" {
		row(w, "server", s.GetError())
	} else {
		row(w, "certificate", s.GetCertificateSubject(), "of "+s.GetCertificateIssuer(), "until "+when(s.GetCertificateExpireTime()))
		row(w, "", strings.Join(s.GetCertificateNames(), ", "), "sha256 "+s.GetCertificateSha256())
	}
	if p := v.GetEndpoint().GetProof(); p != nil {
		row(w, "proof", p.GetHost(), p.GetMethod(), when(p.GetProveTime()))
	}
	row(w, "event types", strings.Join(ep.GetEventTypes(), ", "))
	row(w, "filter", dash(ep.GetFilter()))
	row(w, "data scope", dash(strings.Join(ep.GetDataScope(), ", ")))
	for _, c := range v.GetChanges() {
		row(w, "change", c.GetField(), dash(c.GetBefore())+"  ->  "+dash(c.GetAfter()))
	}
	for _, sample := range v.GetSamples() {
		note := ""
		switch {
		case sample.GetWithheldReason() != "":
			note = "nothing leaves: " + sample.GetWithheldReason()
		case !sample.GetFilterMatches():
			note = "the filter does not take this one"
		}
		sensitivity := "not in the catalogue"
		if sample.GetEntry() != nil {
			sensitivity = sample.GetEntry().GetSensitivity().String()
		}
		row(w, "sample", sample.GetEventType(), sensitivity, note)
		for _, fate := range []sealpostv1.EndpointReview_Field_Fate{
			sealpostv1.EndpointReview_Field_KEPT, sealpostv1.EndpointReview_Field_REPLACED, sealpostv1.EndpointReview_Field_REMOVED,
		} {
			var paths []string
			for _, f := range sample.GetFields() {
				if f.GetFate() == fate {
					paths = append(paths, f.GetPath())
				}
			}
			if len(paths) > 0 {
				row(w, "  "+strings.ToLower(fate.String()), strings.Join(paths, ", "))
			}
		}
		if sample.GetBody() != "" {
			row(w, "  body", sample.GetBody())
		}
	}
	for _, warning := range v.GetWarnings() {
		row(w, "warning", warning)
	}
	if v.GetAction() == "" {
		row(w, "approval", "not now: "+v.GetBlockedBy())
	} else {
		row(w, "approval", v.GetAction(), "sealpost endpoint approve "+v.GetEndpoint().GetId()+" --etag "+v.GetEndpoint().GetEtag())
	}
}

func phaseRows(w io.Writer, phases []*sealpostv1.TestEndpointResponse_Phase) {
	for _, p := range phases {
		took := "-"
		if d := p.GetDuration().AsDuration(); d > 0 {
			took = d.Round(10 * time.Microsecond).String()
		}
		row(w, strings.ToLower(p.GetName().String()), strings.ToLower(p.GetOutcome().String()), took, p.GetDetail())
	}
}

func newEndpointInventory(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "inventory", Short: "List the integrations as an audit asks for them: owner, data scope, authentication, approval, reviews, use", Args: cobra.NoArgs,
		Example: "  sealpost endpoint inventory --review-overdue\n  sealpost endpoint inventory --csv > inventory.csv",
	}
	f := cmd.Flags()
	tenant := f.String("tenant", "", "only of this tenant")
	state := f.String("state", "", "only in this state")
	environment := f.String("environment", "", "only sandbox or production")
	owner := f.String("owner", "", "only of this owner")
	overdue := f.Bool("review-overdue", false, "only those whose review is overdue")
	pending := f.Bool("approval-pending", false, "only those with something that waits for approval")
	static := f.Bool("static-credentials", false, "only those that authenticate us by something that does not expire within 30 days")
	unused := f.Duration("unused-for", 0, "only those that were sent nothing for so long")
	asCSV := f.Bool("csv", false, "write CSV (RFC 4180)")
	limit := f.Int("limit", 1000, "how many, at most")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		request := &sealpostv1.ListInventoryRequest{
			Tenant: *tenant, Owner: *owner, ReviewOverdue: *overdue, ApprovalPending: *pending, StaticCredentials: *static,
		}
		if *unused > 0 {
			request.UnusedSince = timestamppb.New(time.Now().Add(-*unused))
		}
		if *state != "" {
			n, err := enum(sealpostv1.Endpoint_State_value, "state", *state)
			if err != nil {
				return err
			}
			request.State = sealpostv1.Endpoint_State(n)
		}
		if *environment != "" {
			n, err := enum(sealpostv1.Endpoint_Environment_value, "environment", *environment)
			if err != nil {
				return err
			}
			request.Environment = sealpostv1.Endpoint_Environment(n)
		}
		return withClient(conn, func(c *client.Client) error {
			list := &sealpostv1.ListInventoryResponse{}
			err := pages(*limit, func(size int32, token string) (int, string, error) {
				request.PageSize, request.PageToken = size, token
				page, err := sealpostv1.NewEndpointServiceClient(c.Conn()).ListInventory(cmd.Context(), request)
				list.Entries = append(list.Entries, page.GetEntries()...)
				list.NextPageToken = page.GetNextPageToken()
				return len(page.GetEntries()), page.GetNextPageToken(), err
			})
			if err != nil {
				return err
			}
			if *asCSV {
				text, err := sealpostv1.InventoryCSV(list.GetEntries())
				if err == nil {
					_, err = cmd.OutOrStdout().Write(text)
				}
				return err
			}
			return show(cmd, list, func(w io.Writer) { inventoryRows(w, list.GetEntries()) })
		})
	}
	return cmd
}

func inventoryRows(w io.Writer, entries []*sealpostv1.InventoryEntry) {
	row(w, "ID", "TENANT", "STATE", "ENVIRONMENT", "OWNER", "OBJECTS", "AUTH", "APPROVER", "REVIEW DUE", "LAST USE")
	for _, e := range entries {
		due := when(e.GetReviewDueTime())
		if e.GetReviewOverdue() {
			due += " overdue"
		}
		row(w, e.GetEndpointId(), e.GetTenant(), e.GetState(), e.GetEnvironment(), e.GetOwner(), strings.Join(e.GetObjects(), ","),
			strings.Join(e.GetAuthMethods(), "+"), dash(e.GetApprover()), due, when(e.GetLastUseTime()))
	}
}

func newPolicy(conn *connection) *cobra.Command {
	cmd := group("policy", "Say what may leave at all", "  sealpost policy event-type list")
	types := group("event-type", "The catalogue of event types: how sensitive they are, and whether they may leave",
		"  sealpost policy event-type set 'export.*' --sensitivity restricted --leaving bulk-export")
	types.AddCommand(newEventTypeSet(conn), newEventTypeList(conn), newEventTypeShow(conn), newEventTypeDelete(conn))
	cmd.AddCommand(types)
	return cmd
}

func newEventTypeSet(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "set TYPE", Short: "Put an entry in force, in place of the one there was; what it forbids is not sent any more when it answers", Args: cobra.ExactArgs(1),
		Example: "  sealpost policy event-type set 'export.*' --sensitivity restricted --leaving bulk-export\n" +
			"  sealpost policy event-type set contact.updated --tenant acme --sensitivity confidential --example-file contact.json",
	}
	f := cmd.Flags()
	tenant := f.String("tenant", "", "only of this tenant (default all)")
	sensitivity := f.String("sensitivity", "", "public, internal, confidential or restricted")
	leaving := f.String("leaving", "allowed", "allowed, forbidden, or bulk-export, which no endpoint can have")
	description := f.String("description", "", "what it tells of")
	example := f.String("example-file", "", "file with data of a synthetic event, by which reviews show what would leave")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		entry := &sealpostv1.EventType{Tenant: *tenant, Type: args[0], Description: *description}
		n, err := enum(sealpostv1.EventType_Sensitivity_value, "sensitivity", *sensitivity)
		if err != nil {
			return err
		}
		entry.Sensitivity = sealpostv1.EventType_Sensitivity(n)
		if n, err = enum(sealpostv1.EventType_Leaving_value, "leaving", *leaving); err != nil {
			return err
		}
		entry.Leaving = sealpostv1.EventType_Leaving(n)
		if *example != "" {
			text, err := readBounded(*example, maxKeyBytes)
			if err != nil {
				return fmt.Errorf("example: %w", err)
			}
			entry.Example = strings.TrimSpace(string(text))
		}
		return withClient(conn, func(c *client.Client) error {
			answer, err := sealpostv1.NewPolicyServiceClient(c.Conn()).SetEventType(cmd.Context(), &sealpostv1.SetEventTypeRequest{EventType: entry})
			if err != nil {
				return err
			}
			return show(cmd, answer, func(w io.Writer) { eventTypeRows(w, []*sealpostv1.EventType{answer}) })
		})
	}
	return cmd
}

func eventTypeRows(w io.Writer, types []*sealpostv1.EventType) {
	row(w, "TENANT", "TYPE", "SENSITIVITY", "LEAVING", "SET BY", "DESCRIPTION")
	for _, t := range types {
		tenant := t.GetTenant()
		if tenant == "" {
			tenant = "(all)"
		}
		row(w, tenant, t.GetType(), t.GetSensitivity(), t.GetLeaving(), t.GetAuthor(), dash(t.GetDescription()))
	}
}

func newEventTypeList(conn *connection) *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the catalogue", Args: cobra.NoArgs, Example: "  sealpost policy event-type list --tenant acme"}
	tenant := cmd.Flags().String("tenant", "", "of this tenant, with those of all tenants")
	limit := cmd.Flags().Int("limit", 1000, "how many, at most")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		return withClient(conn, func(c *client.Client) error {
			list := &sealpostv1.ListEventTypesResponse{}
			err := pages(*limit, func(size int32, token string) (int, string, error) {
				page, err := sealpostv1.NewPolicyServiceClient(c.Conn()).ListEventTypes(cmd.Context(),
					&sealpostv1.ListEventTypesRequest{Tenant: *tenant, PageSize: size, PageToken: token})
				list.EventTypes = slices.Concat(list.GetEventTypes(), page.GetEventTypes())
				list.NextPageToken = page.GetNextPageToken()
				return len(page.GetEventTypes()), page.GetNextPageToken(), err
			})
			if err != nil {
				return err
			}
			return show(cmd, list, func(w io.Writer) { eventTypeRows(w, list.GetEventTypes()) })
		})
	}
	return cmd
}

func newEventTypeShow(conn *connection) *cobra.Command {
	cmd := &cobra.Command{Use: "show TYPE", Short: "Show an entry", Args: cobra.ExactArgs(1), Example: "  sealpost policy event-type show 'export.*'"}
	tenant := cmd.Flags().String("tenant", "", "the entry of this tenant (default of all)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		return withClient(conn, func(c *client.Client) error {
			answer, err := sealpostv1.NewPolicyServiceClient(c.Conn()).GetEventType(cmd.Context(),
				&sealpostv1.GetEventTypeRequest{Tenant: *tenant, Type: args[0]})
			if err != nil {
				return err
			}
			return show(cmd, answer, func(w io.Writer) {
				eventTypeRows(w, []*sealpostv1.EventType{answer})
				row(w, "example", dash(answer.GetExample()))
			})
		})
	}
	return cmd
}

func newEventTypeDelete(conn *connection) *cobra.Command {
	cmd := &cobra.Command{Use: "delete TYPE", Short: "Take an entry out of the catalogue", Args: cobra.ExactArgs(1),
		Example: "  sealpost policy event-type delete 'export.*'"}
	tenant := cmd.Flags().String("tenant", "", "the entry of this tenant (default of all)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		return withClient(conn, func(c *client.Client) error {
			answer, err := sealpostv1.NewPolicyServiceClient(c.Conn()).DeleteEventType(cmd.Context(),
				&sealpostv1.DeleteEventTypeRequest{Tenant: *tenant, Type: args[0]})
			if err != nil {
				return err
			}
			return show(cmd, answer, func(w io.Writer) { row(w, "deleted", args[0]) })
		})
	}
	return cmd
}
