package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay/client"
	"github.com/sealpost/sealpost/relay/proof"
)

func newAudit(conn *connection) *cobra.Command {
	cmd := group("audit", "See who did what, and prove that nothing of it was changed", "  sealpost audit list --act 'endpoint.*'")
	cmd.AddCommand(newAuditList(conn), newAuditTail(conn), newAuditProve(conn), newAuditVerify(conn), newAuditCheckpoint(conn), newAuditKey(conn),
		newAuditExport(conn), newAuditAccept(conn))
	return cmd
}

// auditQuery are the flags of what asks for entries.
type auditQuery struct{ tenant, account, act, object, outcome string }

func (q *auditQuery) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&q.tenant, "tenant", "", "only of this tenant")
	f.StringVar(&q.account, "account", "", "only of this account")
	f.StringVar(&q.act, "act", "", "only this act, or those that begin so: 'endpoint.*'")
	f.StringVar(&q.object, "object", "", "only what was done to this id")
	f.StringVar(&q.outcome, "outcome", "", "only with this outcome: allowed, refused, done, failed")
}

func (q *auditQuery) outcomeOf() (sealpostv1.AuditEntry_Outcome, error) {
	if q.outcome == "" {
		return 0, nil
	}
	n, err := enum(sealpostv1.AuditEntry_Outcome_value, "outcome", q.outcome)
	return sealpostv1.AuditEntry_Outcome(n), err
}

func newAuditList(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List privileged acts and refused ones, the newest first", Args: cobra.NoArgs,
		Long: "List privileged acts and refused ones, the newest first.\n\n" +
			"An act has an ALLOWED entry, written before it took effect, and then a DONE or FAILED one; a refused act has a REFUSED entry.\n" +
			"With --output json an entry shows what the act changed, before and after.",
		Example: "  sealpost audit list --act 'endpoint.*' --since 24h\n  sealpost audit list --outcome refused --output json",
	}
	var q auditQuery
	q.flags(cmd)
	id := cmd.Flags().String("id", "", "only the entries of this act")
	since := cmd.Flags().Duration("since", 0, "only from so long ago on")
	limit := cmd.Flags().Int("limit", 50, "how many, at most")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		outcome, err := q.outcomeOf()
		if err != nil {
			return err
		}
		request := &sealpostv1.ListAuditEntriesRequest{
			Tenant: q.tenant, Account: q.account, Act: q.act, Object: q.object, ActId: *id, Outcome: outcome,
		}
		if *since > 0 {
			request.After = timestamppb.New(time.Now().Add(-*since))
		}
		return withClient(conn, func(c *client.Client) error {
			list := &sealpostv1.ListAuditEntriesResponse{}
			err := pages(*limit, func(size int32, token string) (int, string, error) {
				request.PageSize, request.PageToken = size, token
				page, err := sealpostv1.NewAuditServiceClient(c.Conn()).ListAuditEntries(cmd.Context(), request)
				list.Entries = append(list.Entries, page.GetEntries()...)
				list.NextPageToken = page.GetNextPageToken()
				return len(page.GetEntries()), page.GetNextPageToken(), err
			})
			if err != nil {
				return err
			}
			return show(cmd, list, func(w io.Writer) {
				row(w, "SEQ", "TIME", "OUTCOME", "ACT", "OBJECT", "TENANT", "ACCOUNT", "CREDENTIAL", "FROM", "WHY")
				for _, e := range list.GetEntries() {
					row(w, e.GetSequence(), when(e.GetTime()), outcomeText(e), e.GetAct(), dash(e.GetObject()), dash(e.GetTenant()), dash(e.GetAccount()),
						dash(e.GetCredentialId()), dash(e.GetAddress()), dash(e.GetReason()))
				}
			})
		})
	}
	return cmd
}

func outcomeText(e *sealpostv1.AuditEntry) string {
	if e.GetTampered() {
		return "TAMPERED WITH"
	}
	return e.GetOutcome().String()
}

func newAuditTail(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "tail", Short: "Show every privileged act and every refused one from now on, one a line", Args: cobra.NoArgs,
		Example: "  sealpost audit tail --outcome refused\n  sealpost audit tail --output json | your-siem",
	}
	var q auditQuery
	q.flags(cmd)
	count := cmd.Flags().Int("count", 0, "end after so many entries (default never)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		asJSON, err := wantsJSON(cmd)
		if err != nil {
			return err
		}
		outcome, err := q.outcomeOf()
		if err != nil {
			return err
		}
		return withClient(conn, func(c *client.Client) error {
			stream, err := sealpostv1.NewAuditServiceClient(c.Conn()).WatchAuditEntries(cmd.Context(), &sealpostv1.WatchAuditEntriesRequest{
				Tenant: q.tenant, Account: q.account, Act: q.act, Object: q.object, Outcome: outcome,
			})
			if err != nil {
				return err
			}
			for n := 0; *count == 0 || n < *count; n++ {
				next, err := stream.Recv()
				if errors.Is(err, io.EOF) || cmd.Context().Err() != nil {
					return nil
				}
				if err != nil {
					return err
				}
				if err := showEntry(cmd.OutOrStdout(), next.GetEntry(), asJSON); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return cmd
}

func showEntry(w io.Writer, e *sealpostv1.AuditEntry, asJSON bool) error {
	if asJSON {
		text, err := jsonOf(e, nil)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "%s\n", text)
		return err
	}
	text := fmt.Sprint(when(e.GetTime()), " ", outcomeText(e), " ", e.GetAct(), " ", dash(e.GetObject()), " by ", dash(e.GetAccount()), " from ", dash(e.GetAddress()))
	if r := e.GetReason(); r != "" {
		text += ": " + r
	}
	for name, changed := range map[string]*structpb.Struct{"before": e.GetBefore(), "after": e.GetAfter()} {
		if changed != nil {
			if part, err := changed.MarshalJSON(); err == nil {
				text += " " + name + " " + string(part)
			}
		}
	}
	_, err := fmt.Fprintln(w, plain(text))
	return err
}

func newAuditProve(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "prove [SEQUENCE]", Short: "Prove that an entry stands in the log, or that the log goes on from an earlier checkpoint", Args: cobra.MaximumNArgs(1),
		Long: "Prove that an entry stands in the log, or that the log goes on where an earlier checkpoint ended.\n\n" +
			"The proof is a text that 'sealpost audit verify' verifies without a server, with the log's public key alone:\n" +
			"c2sp.org/tlog-proof with the record as its extra data, or with --since size, hashes and checkpoint.",
		Example: "  sealpost audit prove 17 > 17.tlog-proof\n  sealpost audit prove --since yesterday.checkpoint > since.proof",
	}
	since := cmd.Flags().String("since", "", "file with an earlier checkpoint")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		request := &sealpostv1.ProveAuditRequest{}
		switch {
		case len(args) == 1 && *since == "":
			n, err := strconv.ParseUint(args[0], 10, 64)
			if err != nil || n == 0 {
				return usagef("%q is no sequence: 'sealpost audit list' shows them", args[0])
			}
			request.Sequence = n
		case len(args) == 0 && *since != "":
			size, err := sizeOf(*since)
			if err != nil {
				return err
			}
			request.OldSize = size
		default:
			return usagef("give a sequence, or --since with the file of an earlier checkpoint")
		}
		return withClient(conn, func(c *client.Client) error {
			answer, err := sealpostv1.NewAuditServiceClient(c.Conn()).ProveAudit(cmd.Context(), request)
			if err != nil {
				return err
			}
			asJSON, err := wantsJSON(cmd)
			if err != nil {
				return err
			}
			if asJSON {
				return show(cmd, answer, nil)
			}
			_, err = io.WriteString(cmd.OutOrStdout(), answer.GetProof())
			return err
		})
	}
	return cmd
}

// sizeOf is the size that a checkpoint says; whether it was signed is for audit verify.
func sizeOf(file string) (uint64, error) {
	text, err := readBounded(file, proof.MaxCheckpoint)
	if err != nil {
		return 0, err
	}
	lines := strings.Split(string(text), "\n")
	if len(lines) > 1 {
		if n, err := strconv.ParseUint(lines[1], 10, 64); err == nil && n > 0 {
			return n, nil
		}
	}
	return 0, fmt.Errorf("%s holds no checkpoint of a log with records", file)
}

func newAuditCheckpoint(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "checkpoint", Short: "Show the log's signed state: size and root", Args: cobra.NoArgs,
		Long: "Show the log's signed state, with everything that was written before (a signed note, c2sp.org/tlog-checkpoint).\n\n" +
			"Whoever keeps one can later have it proven that the log goes on from there: sealpost audit prove --since.",
		Example: "  sealpost audit checkpoint > $(date +%F).checkpoint",
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		asJSON, err := wantsJSON(cmd)
		if err != nil {
			return err
		}
		return withCheckpoint(cmd, conn, func(c *sealpostv1.AuditCheckpoint) error {
			if asJSON {
				return show(cmd, c, nil)
			}
			if c.GetCheckpoint() == "" {
				return errors.New("nothing was signed yet: the log is empty")
			}
			_, err := io.WriteString(cmd.OutOrStdout(), c.GetCheckpoint())
			return err
		})
	}
	return cmd
}

func withCheckpoint(cmd *cobra.Command, conn *connection, fn func(*sealpostv1.AuditCheckpoint) error) error {
	return withClient(conn, func(c *client.Client) error {
		got, err := sealpostv1.NewAuditServiceClient(c.Conn()).GetAuditCheckpoint(cmd.Context(), &sealpostv1.GetAuditCheckpointRequest{})
		if err != nil {
			return err
		}
		if broken := got.GetBroken(); broken != "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "sealpost: %s\n", plain(broken))
		}
		return fn(got)
	})
}

func newAuditKey(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "key", Short: "Show the log's public key", Args: cobra.NoArgs,
		Long: "Show the public key that checkpoints and proofs are verified with. Get it once, and keep it elsewhere: a key that comes along with\n" +
			"what it verifies proves nothing.",
		Example: "  sealpost audit key > audit.pub",
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return withCheckpoint(cmd, conn, func(c *sealpostv1.AuditCheckpoint) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), c.GetKey())
			return err
		})
	}
	return cmd
}

func newAuditExport(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "export", Short: "Copy the whole log into a file that can be verified without a server", Args: cobra.NoArgs,
		Example: "  sealpost audit export --to audit.ndjson\n  sealpost audit verify --key audit.pub audit.ndjson",
	}
	to := cmd.Flags().String("to", "", "file to write, which must not be there; - is standard output")
	first := cmd.Flags().Uint64("from", 0, "sequence to begin with (default: the oldest that is kept)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *to == "" {
			return usagef("--to is needed: a file, or - for standard output")
		}
		return withClient(conn, func(c *client.Client) error {
			write := func(w io.Writer) error { return exportAudit(cmd.Context(), c, *first, w) }
			if *to == "-" {
				return write(cmd.OutOrStdout())
			}
			return writeNewFile(*to, write)
		})
	}
	return cmd
}

func exportAudit(ctx context.Context, c *client.Client, first uint64, w io.Writer) error {
	stream, err := sealpostv1.NewAuditServiceClient(c.Conn()).ExportAudit(ctx, &sealpostv1.ExportAuditRequest{FirstSequence: first})
	if err != nil {
		return err
	}
	return receive(stream.Recv, func(data []byte) error {
		_, err := w.Write(data)
		return err
	})
}

func newAuditAccept(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "accept", Short: "Let privileged acts go on after the log was found changed, as after a restore", Args: cobra.NoArgs,
		Long: "Let privileged acts go on after the audit log was found not to be what its checkpoints say, as after a restore from a backup.\n\n" +
			"It changes no entry and no checkpoint: what was found stays to be seen by whoever verifies, and who accepted it and why is in the log.",
		Example: "  sealpost audit accept --reason 'restored from the backup of 2026-01-02, ticket 42'",
	}
	reason := cmd.Flags().String("reason", "", "why the log may be trusted from here on")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		if strings.TrimSpace(*reason) == "" {
			return usagef("--reason is needed: it is kept in the log")
		}
		return withClient(conn, func(c *client.Client) error {
			got, err := sealpostv1.NewAuditServiceClient(c.Conn()).AcceptAuditBreak(cmd.Context(), &sealpostv1.AcceptAuditBreakRequest{Reason: *reason})
			if err != nil {
				return err
			}
			return show(cmd, got, func(w io.Writer) { row(w, "accepted", "privileged acts are done again") })
		})
	}
	return cmd
}

const auditVerifyHelp = `Verify what the audit log says of itself, with its public key and nothing else.

FILE, or - for standard input, is one of
  an export             every record is hashed and the signed root recomputed: sealpost audit export
  an inclusion proof    the entry stands in the log: sealpost audit prove SEQUENCE
  a consistency proof   the log goes on from the checkpoint in --since: sealpost audit prove --since
  a checkpoint          it was signed: sealpost audit checkpoint
  a file of checkpoints, as the server writes it outside its data folder (audit.checkpoints): each was signed, and the log never became shorter

Without FILE the whole log is fetched from the server and verified. --checkpoints compares an export, or the server's log, with checkpoints
that were kept elsewhere: a log that was made anew is found by them alone.`

func newAuditVerify(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "verify [FILE]", Short: "Verify the log, a proof or a checkpoint, without a server", Long: auditVerifyHelp, Args: cobra.MaximumNArgs(1),
		Example: "  sealpost audit verify --key audit.pub 17.tlog-proof\n" +
			"  sealpost audit verify --key audit.pub --checkpoints /mnt/elsewhere/sealpost-audit.checkpoints",
	}
	v := &auditVerifier{}
	f := cmd.Flags()
	f.StringVar(&v.keyFile, "key", "", "file with the log's public key, or the key itself")
	f.StringVar(&v.since, "since", "", "file with the earlier checkpoint of a consistency proof")
	f.StringVar(&v.checkpoints, "checkpoints", "", "file of checkpoints that were kept elsewhere")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if v.asJSON, err = wantsJSON(cmd); err != nil {
			return err
		}
		if err := v.load(); err != nil {
			return err
		}
		v.out = cmd.OutOrStdout()
		switch {
		case len(args) == 0:
			return withClient(conn, func(c *client.Client) error { return v.server(cmd.Context(), c) })
		case args[0] == "-":
			return v.file(cmd.InOrStdin())
		}
		in, err := os.Open(args[0])
		if err != nil {
			return err
		}
		defer in.Close()
		return v.file(in)
	}
	return cmd
}

// auditVerifier verifies by one key.
type auditVerifier struct {
	keyFile, since, checkpoints string
	asJSON                      bool
	out                         io.Writer

	key   proof.Key
	known []proof.Checkpoint
}

func (v *auditVerifier) load() (err error) {
	if v.keyFile == "" {
		return usagef("--key is needed: the file with the public key that 'sealpost audit key' showed once")
	}
	text := []byte(v.keyFile)
	if !strings.Contains(v.keyFile, "+") {
		if text, err = readBounded(v.keyFile, proof.MaxCheckpoint); err != nil {
			return fmt.Errorf("key: %w", err)
		}
	}
	if v.key, err = proof.ParseKey(string(text)); err != nil {
		return err
	}
	if v.checkpoints == "" {
		return nil
	}
	in, err := os.Open(v.checkpoints)
	if err != nil {
		return err
	}
	defer in.Close()
	if v.known, _, err = proof.ReadPublished(in, v.key); err != nil {
		return fmt.Errorf("%s: %w", v.checkpoints, err)
	}
	return nil
}

// found is what a verification shows.
type found struct {
	What       string `json:"what"`
	Size       int64  `json:"size"`
	Root       string `json:"root"`
	First      int64  `json:"firstSequence,omitempty"`
	Sequence   int64  `json:"sequence,omitempty"`
	Compared   int    `json:"checkpointsCompared,omitempty"`
	Unseen     int    `json:"checkpointsBefore,omitempty"`
	Unreadable int    `json:"linesUnreadable,omitempty"`
}

func (v *auditVerifier) say(f found, c proof.Checkpoint, text string) error {
	f.Size, f.Root = c.Size, proof.FormatHash(c.Root)
	if v.asJSON {
		line, err := json.MarshalIndent(f, "", "  ")
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(v.out, "%s\n", line)
		return err
	}
	_, err := fmt.Fprintf(v.out, "verified: %s\n", plain(text))
	return err
}

// file verifies what is read, whatever of the kinds it is.
func (v *auditVerifier) file(from io.Reader) error {
	in := bufio.NewReaderSize(from, 4<<10)
	begin, err := in.Peek(64)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch {
	case proof.IsExport(begin):
		return v.export(in)
	case proof.IsLines(begin):
		return v.published(in)
	}
	text, err := io.ReadAll(io.LimitReader(in, proof.MaxProof+1))
	if err != nil {
		return err
	}
	switch {
	case proof.IsInclusion(text):
		p, err := proof.ParseInclusion(text)
		if err != nil {
			return err
		}
		c, err := p.Verify(v.key)
		if err != nil {
			return err
		}
		return v.say(found{What: "inclusion", Sequence: p.Index + 1}, c, fmt.Sprintf("entry %d stands in the log of %d", p.Index+1, c.Size))
	case proof.IsConsistency(text):
		return v.consistency(text)
	}
	c, err := proof.ParseCheckpoint(text, v.key)
	if err != nil {
		return err
	}
	return v.say(found{What: "checkpoint"}, c, fmt.Sprintf("the log had %d entries", c.Size))
}

func (v *auditVerifier) consistency(text []byte) error {
	if v.since == "" {
		return usagef("--since is needed: the file with the earlier checkpoint, which the proof was asked for with")
	}
	signed, err := readBounded(v.since, proof.MaxCheckpoint)
	if err != nil {
		return err
	}
	old, err := proof.ParseCheckpoint(signed, v.key)
	if err != nil {
		return fmt.Errorf("%s: %w", v.since, err)
	}
	p, err := proof.ParseConsistency(text)
	if err != nil {
		return err
	}
	c, err := p.Verify(v.key, old)
	if err != nil {
		return err
	}
	return v.say(found{What: "consistency"}, c, fmt.Sprintf("the log of %d entries begins with the %d of the earlier checkpoint", c.Size, old.Size))
}

func (v *auditVerifier) published(in io.Reader) error {
	all, damaged, err := proof.ReadPublished(in, v.key)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return errors.New("no checkpoint is in it")
	}
	text := fmt.Sprintf("%d checkpoints; the log never became shorter, and had %d entries last", len(all), all[len(all)-1].Size)
	if damaged > 0 {
		text += fmt.Sprintf("; %d lines cannot be read, as a process that was killed leaves them", damaged)
	}
	return v.say(found{What: "checkpoints", Compared: len(all), Unreadable: damaged}, all[len(all)-1], text)
}

func (v *auditVerifier) export(in io.Reader) error {
	got, err := proof.VerifyExport(in, v.key, v.known, nil)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("the log of %d entries is as it was signed, from entry %d on", got.Checkpoint.Size, got.First+1)
	if v.checkpoints != "" {
		text += fmt.Sprintf("; it is what %d checkpoints kept elsewhere say", got.Known)
		if got.Unknown > 0 {
			text += fmt.Sprintf(", and %d are of before that", got.Unknown)
		}
	}
	return v.say(found{What: "export", First: got.First + 1, Compared: got.Known, Unseen: got.Unknown}, got.Checkpoint, text)
}

// server verifies the whole log as it comes from the server.
func (v *auditVerifier) server(ctx context.Context, c *client.Client) error {
	r, w := io.Pipe()
	go func() { w.CloseWithError(exportAudit(ctx, c, 0, w)) }()
	defer r.Close()
	in := bufio.NewReader(r)
	if begin, err := in.Peek(1); err != nil || !bytes.Equal(begin, []byte("{")) {
		return errors.Join(errors.New("the server gave no export"), err)
	}
	return v.export(in)
}
