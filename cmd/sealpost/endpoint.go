package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay/client"
)

func newEndpoint(conn *connection) *cobra.Command {
	cmd := group("endpoint", "Register and steer the partners' endpoints", "  sealpost endpoint list --tenant acme")
	cmd.AddCommand(
		newEndpointCreate(conn), newEndpointList(conn), newEndpointShow(conn), newEndpointUpdate(conn),
		newEndpointVerify(conn), newEndpointReview(conn), newEndpointInventory(conn),
		endpointAct(conn, "approve", "Let a pending endpoint be sent to, or renew its review; another account than its registrant's must do it",
			[]string{"etag"}, func(c sealpostv1.EndpointServiceClient, cmd *cobra.Command, id, tenant string) (proto.Message, error) {
				return c.ApproveEndpoint(cmd.Context(), &sealpostv1.ApproveEndpointRequest{Id: id, Tenant: tenant, Etag: flagText(cmd, "etag")})
			}),
		endpointAct(conn, "reject", "Refuse a pending endpoint",
			[]string{"etag", "reason"}, func(c sealpostv1.EndpointServiceClient, cmd *cobra.Command, id, tenant string) (proto.Message, error) {
				return c.RejectEndpoint(cmd.Context(), &sealpostv1.RejectEndpointRequest{
					Id: id, Tenant: tenant, Etag: flagText(cmd, "etag"), Reason: flagText(cmd, "reason")})
			}),
		endpointAct(conn, "pause", "Stop sending; answers when nothing more is being sent",
			[]string{"reason"}, func(c sealpostv1.EndpointServiceClient, cmd *cobra.Command, id, tenant string) (proto.Message, error) {
				return c.PauseEndpoint(cmd.Context(), &sealpostv1.PauseEndpointRequest{Id: id, Tenant: tenant, Reason: flagText(cmd, "reason")})
			}),
		endpointAct(conn, "resume", "Send again, what is parked first",
			nil, func(c sealpostv1.EndpointServiceClient, cmd *cobra.Command, id, tenant string) (proto.Message, error) {
				return c.ResumeEndpoint(cmd.Context(), &sealpostv1.ResumeEndpointRequest{Id: id, Tenant: tenant})
			}),
		newEndpointTest(conn), newEndpointHealth(conn),
		endpointAct(conn, "delete", "End an endpoint; what it was still to get is cancelled",
			[]string{"etag"}, func(c sealpostv1.EndpointServiceClient, cmd *cobra.Command, id, tenant string) (proto.Message, error) {
				return c.DeleteEndpoint(cmd.Context(), &sealpostv1.DeleteEndpointRequest{Id: id, Tenant: tenant, Etag: flagText(cmd, "etag")})
			}),
	)
	cmd.AddCommand(newEndpointKeys(conn)...)
	return cmd
}

// renewWithin bounds the renewal of a certificate by a command that ends at once.
const renewWithin = 10 * time.Second

// withClient makes a connection for the length of one command.
func withClient(conn *connection, do func(*client.Client) error) error {
	made, err := conn.dial()
	if err != nil {
		return err
	}
	renewing, cancel := context.WithTimeout(context.Background(), renewWithin)
	defer cancel()
	if err := made.Renew(renewing); err != nil {
		fmt.Fprintf(os.Stderr, "sealpost: the certificate is due for renewal, which failed: %s\n", explain(err))
	}
	return errors.Join(do(made), made.Close())
}

func flagText(cmd *cobra.Command, name string) string { return cmd.Flag(name).Value.String() }

var actFlags = map[string]string{
	"etag":   "the version that was looked at; refused where it has changed since",
	"reason": "why, for the record",
}

// endpointAct is a command that does one thing to one endpoint and shows what it is then.
func endpointAct(conn *connection, name, short string, flags []string,
	do func(c sealpostv1.EndpointServiceClient, cmd *cobra.Command, id, tenant string) (proto.Message, error)) *cobra.Command {
	cmd := &cobra.Command{
		Use: name + " ID", Short: short, Args: cobra.ExactArgs(1),
		Example: fmt.Sprintf("  sealpost endpoint %s ep_0123456789abcdef --tenant acme", name),
	}
	tenant := cmd.Flags().String("tenant", "", "tenant of the endpoint")
	for _, f := range flags {
		cmd.Flags().String(f, "", actFlags[f])
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		return withClient(conn, func(c *client.Client) error {
			answer, err := do(sealpostv1.NewEndpointServiceClient(c.Conn()), cmd, args[0], *tenant)
			if err != nil {
				return err
			}
			return show(cmd, answer, func(w io.Writer) {
				if ep, ok := answer.(*sealpostv1.Endpoint); ok {
					endpointRows(w, ep)
				} else {
					row(w, name+"d", args[0])
				}
			})
		})
	}
	return cmd
}

// endpointFlags are the fields of an endpoint as flags. Each change is noted by the field's path, for an update's mask.
type endpointFlags struct {
	file, secretFile, caFile            string
	mode, clientCert, environment       string
	masks                               []string
	rate                                float64
	timeout, retryFor                   time.Duration
	rotateEvery, rotateOverlap          time.Duration
	endpoint                            sealpostv1.Endpoint
	allow, drop, pseudonymize, spkiPins []string
}

func (e *endpointFlags) add(cmd *cobra.Command, creating bool) {
	f := cmd.Flags()
	ep := &e.endpoint
	f.StringVarP(&e.file, "file", "f", "", "the endpoint in YAML or JSON, with the API's field names; flags go over it")
	f.StringVar(&ep.Tenant, "tenant", "", "tenant whose events it gets")
	f.StringVar(&ep.Url, "url", "", "where it is: https://...")
	f.StringVar(&ep.Owner, "owner", "", "who answers for it, such as a mail address")
	f.StringVar(&ep.Purpose, "purpose", "", "what the partner needs the events for")
	f.StringVar(&ep.Description, "description", "", "more about it")
	f.StringSliceVar(&ep.EventTypes, "event-types", nil, "types it gets: contact.updated,deal.*")
	f.StringVar(&e.environment, "environment", "", "sandbox (synthetic events alone) or production (default sandbox)")
	f.StringSliceVar(&ep.DataScope, "data-scope", nil, "paths of the fields that the partner needs; nothing else leaves: contact.email,contact.name")
	f.StringVar(&ep.Filter, "filter", "", "CEL over what would leave: event.data.country == 'DE'")
	f.StringVar(&ep.ContentMode, "content-mode", "", "envelope, data, cloudevents or cloudevents-binary")
	f.StringVar(&e.mode, "redaction", "", "allow-listed, deny-listed or none")
	f.StringSliceVar(&e.allow, "allow", nil, "paths that leave, where allow-listed")
	f.StringSliceVar(&e.drop, "drop", nil, "paths that are removed: **.ssn")
	f.StringSliceVar(&e.masks, "mask", nil, "paths that are masked, with the characters to keep: **.card_number:4")
	f.StringSliceVar(&e.pseudonymize, "pseudonymize", nil, "paths that are replaced by a keyed hash")
	f.Int32Var(&ep.ChunkBytes, "chunk-bytes", 0, "largest body in one request, in bytes (default 262144)")
	f.StringVar(&ep.ChunkArray, "chunk-array", "", "path of the array to page over (default the largest)")
	f.Int32Var(&ep.Concurrency, "concurrency", 0, "requests in flight at once, at most (default 8)")
	f.BoolVar(&ep.Ordered, "ordered", false, "one at a time, in the order of acceptance")
	f.Float64Var(&e.rate, "rate", 0, "requests a second, at most (default no limit)")
	f.DurationVar(&e.timeout, "timeout", 0, "of one attempt (default 15s)")
	f.DurationVar(&e.retryFor, "retry-for", 0, "how long a delivery is tried (default 72h)")
	f.BoolVar(&ep.Http2, "http2", false, "speak HTTP/2 where the server offers it")
	f.StringVar(&e.clientCert, "client-certificate", "", "none, offered or required")
	f.StringVar(&e.caFile, "ca-file", "", "PEM file of roots to trust the endpoint by (default the system's)")
	f.DurationVar(&e.rotateEvery, "rotate-every", 0, "life of its signing key, 24h to 17520h (default it is replaced on demand only)")
	f.DurationVar(&e.rotateOverlap, "rotate-overlap", 0, "how long the old and the new key are both good (default 24h)")
	f.StringSliceVar(&e.spkiPins, "spki-pins", nil, "sha256/<base64> of public keys, one of which must be in its chain")
	if creating {
		addScheme(cmd, &ep.Scheme, "")
		f.StringVar(&e.secretFile, "signing-secret-file", "", "file with a signing secret of the partner's own (default one is made)")
	}
}

// endpointPaths are the API's paths of the flags that an update can name.
var endpointPaths = map[string]string{
	"url": "url", "owner": "owner", "purpose": "purpose", "description": "description", "event-types": "event_types",
	"filter": "filter", "content-mode": "content_mode", "redaction": "redaction.mode", "allow": "redaction.allow",
	"drop": "redaction.drop", "mask": "redaction.mask", "pseudonymize": "redaction.pseudonymize", "chunk-bytes": "chunk_bytes",
	"chunk-array": "chunk_array", "concurrency": "concurrency", "ordered": "ordered", "rate": "rate_limit", "timeout": "timeout",
	"retry-for": "retry_for", "http2": "http2", "client-certificate": "tls.client_certificate", "ca-file": "tls.ca_pem",
	"spki-pins": "tls.spki_pins", "rotate-every": "rotation.every", "rotate-overlap": "rotation.overlap",
	"environment": "environment", "data-scope": "data_scope",
}

// maxEndpointBytes bounds a file with an endpoint, roots included.
const maxEndpointBytes = 1 << 20

// build is the endpoint of the file with the flags over it, and the paths that both named.
func (e *endpointFlags) build(cmd *cobra.Command) (*sealpostv1.Endpoint, []string, error) {
	out := &sealpostv1.Endpoint{}
	if e.file != "" {
		if err := readEndpoint(cmd, e.file, out); err != nil {
			return nil, nil, err
		}
	}
	paths := pathsOf(out)
	changed := cmd.Flags().Changed
	set := proto.Clone(&e.endpoint).(*sealpostv1.Endpoint)
	for flag, path := range endpointPaths {
		if !changed(flag) {
			continue
		}
		if err := e.over(out, set, flag); err != nil {
			return nil, nil, err
		}
		parent, _, _ := strings.Cut(path, ".")
		if !slices.Contains(paths, path) && !slices.Contains(paths, parent) {
			paths = append(paths, path)
		}
	}
	if changed("tenant") {
		out.Tenant = set.Tenant
	}
	if cmd.Flag("scheme") != nil && changed("scheme") {
		out.Scheme = set.Scheme
	}
	if e.secretFile != "" {
		text, err := readBounded(e.secretFile, maxSecretBytes)
		if err != nil {
			return nil, nil, fmt.Errorf("signing secret: %w", err)
		}
		out.Secret = proto.String(strings.TrimSpace(string(text)))
	}
	slices.Sort(paths)
	return out, paths, nil
}

// over sets the field of one flag.
func (e *endpointFlags) over(to, set *sealpostv1.Endpoint, flag string) error {
	if strings.HasPrefix(endpointPaths[flag], "redaction.") && to.Redaction == nil {
		to.Redaction = &sealpostv1.Redaction{}
	}
	if strings.HasPrefix(endpointPaths[flag], "tls.") && to.Tls == nil {
		to.Tls = &sealpostv1.Tls{}
	}
	if strings.HasPrefix(endpointPaths[flag], "rotation.") && to.Rotation == nil {
		to.Rotation = &sealpostv1.Rotation{}
	}
	switch flag {
	case "rotate-every":
		to.Rotation.Every = durationpb.New(e.rotateEvery)
	case "rotate-overlap":
		to.Rotation.Overlap = durationpb.New(e.rotateOverlap)
	case "url":
		to.Url = set.Url
	case "owner":
		to.Owner = set.Owner
	case "purpose":
		to.Purpose = set.Purpose
	case "description":
		to.Description = set.Description
	case "event-types":
		to.EventTypes = set.EventTypes
	case "filter":
		to.Filter = set.Filter
	case "content-mode":
		to.ContentMode = set.ContentMode
	case "data-scope":
		to.DataScope = set.DataScope
	case "environment":
		environment, err := enum(sealpostv1.Endpoint_Environment_value, flag, e.environment)
		to.Environment = sealpostv1.Endpoint_Environment(environment)
		return err
	case "chunk-bytes":
		to.ChunkBytes = set.ChunkBytes
	case "chunk-array":
		to.ChunkArray = set.ChunkArray
	case "concurrency":
		to.Concurrency = set.Concurrency
	case "ordered":
		to.Ordered = set.Ordered
	case "http2":
		to.Http2 = set.Http2
	case "rate":
		to.RateLimit = &sealpostv1.RateLimit{RequestsPerSecond: e.rate}
	case "timeout":
		to.Timeout = durationpb.New(e.timeout)
	case "retry-for":
		to.RetryFor = durationpb.New(e.retryFor)
	case "allow":
		to.Redaction.Allow = e.allow
	case "drop":
		to.Redaction.Drop = e.drop
	case "pseudonymize":
		to.Redaction.Pseudonymize = e.pseudonymize
	case "spki-pins":
		to.Tls.SpkiPins = e.spkiPins
	case "redaction":
		mode, err := enum(sealpostv1.Redaction_Mode_value, flag, e.mode)
		to.Redaction.Mode = sealpostv1.Redaction_Mode(mode)
		return err
	case "client-certificate":
		mode, err := enum(sealpostv1.Tls_ClientCertificate_value, flag, e.clientCert)
		to.Tls.ClientCertificate = sealpostv1.Tls_ClientCertificate(mode)
		return err
	case "mask":
		return e.overMasks(to)
	case "ca-file":
		pem, err := readBounded(e.caFile, maxCABytes)
		if err != nil {
			return fmt.Errorf("ca-file: %w", err)
		}
		to.Tls.CaPem = string(pem)
	}
	return nil
}

func (e *endpointFlags) overMasks(to *sealpostv1.Endpoint) error {
	to.Redaction.Mask = nil
	for _, text := range e.masks {
		path, keep, ok := strings.Cut(text, ":")
		n := 0
		if ok {
			var err error
			if n, err = strconv.Atoi(keep); err != nil || n < 0 || n > 1<<16 {
				return usagef("--mask: %q is not a path and a number, such as **.card_number:4", text)
			}
		}
		to.Redaction.Mask = append(to.Redaction.Mask, &sealpostv1.Mask{Path: path, KeepLast: int32(n)})
	}
	return nil
}

// enum reads a value of the API's in the spelling of a flag: deny-listed is DENY_LISTED.
func enum(values map[string]int32, flag, text string) (int32, error) {
	var known []string
	for name, n := range values {
		if n == 0 {
			continue
		}
		spelled := strings.ReplaceAll(strings.ToLower(name), "_", "-")
		if strings.EqualFold(text, name) || strings.EqualFold(text, spelled) {
			return n, nil
		}
		known = append(known, spelled)
	}
	slices.Sort(known)
	return 0, usagef("--%s: %q is not one of %s", flag, text, strings.Join(known, ", "))
}

// readEndpoint reads YAML or JSON, strictly.
func readEndpoint(cmd *cobra.Command, name string, into *sealpostv1.Endpoint) error {
	var text []byte
	var err error
	if name == "-" {
		text, err = io.ReadAll(io.LimitReader(cmd.InOrStdin(), maxEndpointBytes))
	} else {
		text, err = readBounded(name, maxEndpointBytes)
	}
	if err != nil {
		return fmt.Errorf("endpoint file: %w", err)
	}
	asJSON, err := yaml.YAMLToJSON(text)
	if err != nil {
		return fmt.Errorf("endpoint file %s: %w", name, brief(err))
	}
	if err := protojson.Unmarshal(asJSON, into); err != nil {
		return fmt.Errorf("endpoint file %s: %s", name, strings.ReplaceAll(err.Error(), "\u00a0", " "))
	}
	return nil
}

// pathsOf are the fields that an endpoint has, for an update's mask.
func pathsOf(ep *sealpostv1.Endpoint) []string {
	var out []string
	fields := ep.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if name := string(f.Name()); ep.ProtoReflect().Has(f) && !slices.Contains([]string{"id", "tenant", "etag"}, name) {
			out = append(out, name)
		}
	}
	return out
}

func newEndpointCreate(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Register an endpoint; its signing secret is shown this once",
		Args:  cobra.NoArgs,
		Example: `  sealpost endpoint create --tenant acme --url https://hooks.partner.example/crm --owner ops@partner.example \
    --purpose "sync of contacts" --event-types 'contact.*' --redaction deny-listed --drop '**.ssn' --mask '**.card_number:4'
  sealpost endpoint create --file endpoint.yaml --secret-out partner.secret`,
	}
	var flags endpointFlags
	flags.add(cmd, true)
	secretOut := cmd.Flags().String("secret-out", "", "write the secret, or the public key, to this new file instead of showing it")
	requestID := cmd.Flags().String("request-id", "", "an id of your own, so that a repeat registers nothing twice")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		ep, _, err := flags.build(cmd)
		if err != nil {
			return err
		}
		return withClient(conn, func(c *client.Client) error {
			answer, err := sealpostv1.NewEndpointServiceClient(c.Conn()).CreateEndpoint(cmd.Context(),
				&sealpostv1.CreateEndpointRequest{Endpoint: ep, RequestId: *requestID})
			if err != nil {
				return err
			}
			if ep := answer.GetEndpoint(); ep.GetReplayable() {
				fmt.Fprintf(cmd.ErrOrStderr(), "note: scheme %s signs no time: a delivery that somebody recorded can be sent again and verifies, so the receiver\n"+
					"has to remember what it has handled; prefer another scheme where there is the choice\n", plain(ep.GetScheme()))
			}
			return showOnce(cmd, *secretOut, answer, &answer.Secret, &answer.PublicKeyPem, func(w io.Writer) { endpointRows(w, answer.GetEndpoint()) })
		})
	}
	return cmd
}

// showOnce shows an answer that holds a new secret or public key; where a file is given, it goes there instead.
func showOnce(cmd *cobra.Command, file string, answer proto.Message, secret, publicPEM **string, rows func(io.Writer)) error {
	asJSON, err := wantsJSON(cmd)
	if err != nil {
		return err
	}
	text := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	var lost error
	if file != "" {
		if lost = writeSecret(file, text(*secret)+text(*publicPEM)); lost == nil {
			*secret, *publicPEM = nil, nil
		}
	}
	err = show(cmd, answer, func(w io.Writer) {
		rows(w)
		if s := text(*secret); s != "" {
			row(w, "secret", s)
		}
	})
	if pem := text(*publicPEM); pem != "" && !asJSON {
		fmt.Fprint(cmd.OutOrStdout(), plainLines(pem))
	}
	return errors.Join(err, lost)
}

// writeSecret writes a file that was not there, for its owner's eyes.
func writeSecret(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, strings.TrimSpace(text)+"\n")
	return errors.Join(err, f.Close())
}

func newEndpointUpdate(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "update ID",
		Short:   "Change the fields that flags or the file name; what widens what leaves waits for approval",
		Args:    cobra.ExactArgs(1),
		Example: "  sealpost endpoint update ep_0123456789abcdef --tenant acme --concurrency 4 --drop '**.ssn,**.iban'",
	}
	var flags endpointFlags
	flags.add(cmd, false)
	etag := cmd.Flags().String("etag", "", actFlags["etag"])
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		ep, paths, err := flags.build(cmd)
		if err != nil {
			return err
		}
		if len(paths) == 0 {
			return usagef("nothing to change: name a field by its flag, or give --file")
		}
		ep.Id = args[0]
		if *etag != "" {
			ep.Etag = *etag
		}
		return withClient(conn, func(c *client.Client) error {
			answer, err := sealpostv1.NewEndpointServiceClient(c.Conn()).UpdateEndpoint(cmd.Context(),
				&sealpostv1.UpdateEndpointRequest{Endpoint: ep, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
			if err != nil {
				return err
			}
			return show(cmd, answer, func(w io.Writer) { endpointRows(w, answer) })
		})
	}
	return cmd
}

func newEndpointList(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List endpoints", Args: cobra.NoArgs,
		Example: "  sealpost endpoint list --tenant acme --state pending",
	}
	tenant := cmd.Flags().String("tenant", "", "only of this tenant")
	state := cmd.Flags().String("state", "", "only in this state")
	overdue := cmd.Flags().Bool("review-overdue", false, "only those whose review is overdue")
	limit := cmd.Flags().Int("limit", 100, "how many, at most")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		request := &sealpostv1.ListEndpointsRequest{Tenant: *tenant, ReviewOverdue: *overdue}
		if *state != "" {
			n, err := enum(sealpostv1.Endpoint_State_value, "state", *state)
			if err != nil {
				return err
			}
			request.State = sealpostv1.Endpoint_State(n)
		}
		return withClient(conn, func(c *client.Client) error {
			list := &sealpostv1.ListEndpointsResponse{}
			err := pages(*limit, func(size int32, token string) (int, string, error) {
				request.PageSize, request.PageToken = size, token
				page, err := sealpostv1.NewEndpointServiceClient(c.Conn()).ListEndpoints(cmd.Context(), request)
				list.Endpoints = append(list.Endpoints, page.GetEndpoints()...)
				list.NextPageToken = page.GetNextPageToken()
				return len(page.GetEndpoints()), page.GetNextPageToken(), err
			})
			if err != nil {
				return err
			}
			return show(cmd, list, func(w io.Writer) {
				row(w, "ID", "TENANT", "STATE", "SCHEME", "TYPES", "URL")
				for _, ep := range list.GetEndpoints() {
					row(w, ep.GetId(), ep.GetTenant(), ep.GetState(), ep.GetScheme(), strings.Join(ep.GetEventTypes(), ","), ep.GetUrl())
				}
			})
		})
	}
	return cmd
}

// pages reads pages until there are that many items, or no more. get says how many it got, and the token of the next page.
func pages(limit int, get func(size int32, token string) (int, string, error)) error {
	if limit < 1 {
		return usagef("--limit: must be at least 1")
	}
	token := ""
	for left := limit; left > 0; {
		n, next, err := get(int32(min(left, 1000)), token)
		if err != nil {
			return err
		}
		left -= n
		if token = next; next == "" {
			return nil
		}
	}
	return nil
}

func newEndpointShow(conn *connection) *cobra.Command {
	return endpointAct(conn, "show", "Show an endpoint", nil,
		func(c sealpostv1.EndpointServiceClient, cmd *cobra.Command, id, tenant string) (proto.Message, error) {
			return c.GetEndpoint(cmd.Context(), &sealpostv1.GetEndpointRequest{Id: id, Tenant: tenant})
		})
}

func newEndpointTest(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "test ID", Short: "Send one signed test event, now, and tell what came of it", Args: cobra.ExactArgs(1),
		Example: "  sealpost endpoint test ep_0123456789abcdef --tenant acme",
	}
	tenant := cmd.Flags().String("tenant", "", "tenant of the endpoint")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		return withClient(conn, func(c *client.Client) error {
			answer, err := sealpostv1.NewEndpointServiceClient(c.Conn()).TestEndpoint(cmd.Context(),
				&sealpostv1.TestEndpointRequest{Id: args[0], Tenant: *tenant})
			if err != nil {
				return err
			}
			if err := show(cmd, answer, func(w io.Writer) {
				phaseRows(w, answer.GetPhases())
				attemptRows(w, answer.GetAttempt())
			}); err != nil {
				return err
			}
			if a := answer.GetAttempt(); a.GetVerdict() != sealpostv1.Attempt_DONE {
				return fmt.Errorf("the endpoint did not take the test event: %s", a.GetReason())
			}
			return nil
		})
	}
	return cmd
}

// endpointRows shows what matters of an endpoint; JSON has all of it.
func endpointRows(w io.Writer, ep *sealpostv1.Endpoint) {
	row(w, "id", ep.GetId())
	row(w, "tenant", ep.GetTenant())
	state := ep.GetState().String()
	if why := ep.GetStateReason(); why != "" {
		state += " (" + why + ")"
	}
	row(w, "state", state)
	row(w, "url", ep.GetUrl())
	row(w, "environment", ep.GetEnvironment())
	row(w, "owner", dash(ep.GetOwner()))
	row(w, "data scope", dash(strings.Join(ep.GetDataScope(), ", ")))
	row(w, "event types", strings.Join(ep.GetEventTypes(), ", "))
	row(w, "filter", dash(ep.GetFilter()))
	scheme := ep.GetScheme()
	if ep.GetReplayable() {
		scheme += " (replayable: it signs no time)"
	}
	row(w, "scheme", scheme)
	row(w, "content", ep.GetContentMode())
	r := ep.GetRedaction()
	row(w, "redaction", r.GetMode())
	for _, rule := range []struct {
		name  string
		paths []string
	}{{"allow", r.GetAllow()}, {"drop", r.GetDrop()}, {"mask", maskTexts(r.GetMask())}, {"pseudonymize", r.GetPseudonymize()}} {
		if len(rule.paths) > 0 {
			row(w, "  "+rule.name, strings.Join(rule.paths, ", "))
		}
	}
	row(w, "client certificate", ep.GetTls().GetClientCertificate())
	if r := ep.GetRotation(); r != nil {
		row(w, "rotation", fmt.Sprintf("every %v, overlap %v", r.GetEvery().AsDuration(), r.GetOverlap().AsDuration()))
	}
	for _, k := range ep.GetSigningKeys() {
		row(w, "signing key", k.GetId()+" "+k.GetState().String())
	}
	if p := ep.GetProof(); p != nil {
		row(w, "proof", p.GetHost(), p.GetMethod(), when(p.GetProveTime()), "again by "+when(p.GetDueTime()))
	}
	if ep.GetApprover() != "" {
		row(w, "approved", ep.GetApprover(), when(ep.GetApproveTime()))
		row(w, "reviewed", dash(ep.GetReviewer()), when(ep.GetReviewTime()), "again by "+when(ep.GetReviewDueTime()))
	}
	if p := ep.GetProposal(); p != nil {
		row(w, "proposal", "of "+p.GetAuthor()+" waits for approval: sealpost endpoint review "+ep.GetId())
	}
	row(w, "created", when(ep.GetCreateTime()))
	row(w, "etag", ep.GetEtag())
}

func maskTexts(masks []*sealpostv1.Mask) []string {
	var out []string
	for _, m := range masks {
		out = append(out, fmt.Sprintf("%s:%d", m.GetPath(), m.GetKeepLast()))
	}
	return out
}
