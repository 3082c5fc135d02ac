// Package control is the one door: every act on events, endpoints, deliveries and tokens is a method here that takes the
// caller first, checks scope and tenant, writes the audit record, and acts.
//
// It promises that nothing privileged is done without a record of it, before and after; that what a caller may not know of
// is not found, not forbidden; that registering and approving are two accounts; that a change which widens what leaves waits for
// approval while one that narrows it applies at once; and that pausing and deleting answer only when nothing more is
// sent. It trusts the faces in front of it (api, console) to hand it callers that access authenticated, and nothing else of what
// they hand it.
package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/audit"
	"github.com/sealpost/sealpost/relay/internal/egress"
	"github.com/sealpost/sealpost/relay/internal/erasure"
	"github.com/sealpost/sealpost/relay/internal/filter"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/operation"
	"github.com/sealpost/sealpost/relay/internal/quota"
	"github.com/sealpost/sealpost/relay/internal/redact"
	"github.com/sealpost/sealpost/relay/internal/registry"
	"github.com/sealpost/sealpost/relay/internal/tree"
)

// DeliveryRef names a delivery to its partition's owner.
type DeliveryRef struct {
	Tenant     string
	DeliveryID string
	EndpointID string
	EventID    string
	Partition  int
	Seq        uint64
	Attempts   int // made so far, so that the next one's number follows
	Redacted   int // fields, when it was sent last
}

// Owners reaches the owner of a tenant's partition, in this process or another. All of it may be called concurrently.
// An owner that cannot be reached, or does not answer before ctx ends, is an error.
type Owners interface {
	// Settle returns once the owner acts under a registry of at least this revision and nothing that it began under an
	// older one is in flight.
	Settle(ctx context.Context, tenant string, revision uint64) error
	// Retry sends a delivery again, now, whatever state it is in, and returns when that is recorded.
	Retry(ctx context.Context, ref DeliveryRef) error
	// Cancel ends a delivery that is not settled, and returns when that is recorded and nothing of it is in flight.
	Cancel(ctx context.Context, ref DeliveryRef) error
	// Health is how an endpoint does now.
	Health(ctx context.Context, tenant, endpointID string) (relay.EndpointHealth, error)
}

// Tester sends one signed synthetic event to an endpoint, now. A failed attempt is no error.
type Tester interface {
	Test(ctx context.Context, endpoint *registry.Endpoint) (relay.Attempt, relay.Verdict, error)
}

// Feed tells every change of a delivery from the call on, until ctx ends; an error ends it.
type Feed interface {
	Outcomes(ctx context.Context) iter.Seq2[*relay.Outcome, error]
}

// Options are the parts that control acts on. All but those with a default are required.
type Options struct {
	Journal  *journal.Journal
	Registry *registry.Registry
	Sealer   registry.Sealer
	Access   *access.Keeper
	Audit    *audit.Log
	// Certificates signs for the built-in CA; nil: accounts get no certificates here.
	Certificates CertificateSigner
	// SignIns knows the OpenID provider; nil: nobody signs in.
	SignIns SignIns
	Ledger  relay.Ledger
	Owners  Owners
	Tester  Tester
	Feed    Feed
	// Operations are kept here, and run by the owners of their partitions.
	Operations *operation.Keeper
	Erasures   *erasure.Set
	// Trail reads the audit log, and Tree proves it; nil where there is no such thing: then neither can be asked for.
	Trail *audit.Reader
	Tree  *tree.Tree
	// Backup writes a copy of everything and returns facts of it for the record; nil where there is no such thing.
	Backup     func(ctx context.Context, to io.Writer) (map[string]string, error)
	Guard      *egress.Guard
	Onboarding Onboarding
	Quotas     *quota.Publish // what tenants may publish; nil: no bound
	// Dev makes endpoints active at once and allows http. EnterDev must have returned before the first call.
	Dev bool
	// MaxDataBytes bounds an event's data; default relay.DefaultMaxDataSize, and never more than the journal takes.
	MaxDataBytes int
	// MaxEndpoints bounds the endpoints of one tenant that are not deleted; default DefaultMaxEndpoints.
	MaxEndpoints int
	Now          func() time.Time // default time.Now
	Logger       *slog.Logger     // default discards
}

// DefaultMaxEndpoints is how many endpoints a tenant can have.
const DefaultMaxEndpoints = 20_000

// Control is the door. Its methods may be called concurrently.
type Control struct {
	Options
	filters *filter.Compiler
	checks  redact.Validator
	signIns *rate.Limiter
	grants  sync.Map // account -> *rate.Limiter: of access tokens
	proofs  *rate.Limiter
}

// recordOverhead is more than an event's record takes beside the data, in bytes.
const recordOverhead = 2 << 10

// New is a door to the parts given.
func New(o Options) (*Control, error) {
	if o.Journal == nil || o.Registry == nil || o.Sealer == nil || o.Access == nil || o.Audit == nil || o.Ledger == nil ||
		o.Owners == nil || o.Tester == nil || o.Feed == nil || o.Operations == nil || o.Erasures == nil || o.Guard == nil {
		return nil, errors.New("control: a part is missing")
	}
	if o.Onboarding.Prover == nil && !o.Onboarding.Off && !o.Dev {
		return nil, errors.New("control: proofs are required and there is nothing to prove them with")
	}
	o.Onboarding.ProofLife = cmp.Or(o.Onboarding.ProofLife, DefaultProofLife)
	o.Onboarding.ReviewEvery = cmp.Or(o.Onboarding.ReviewEvery, DefaultReviewEvery)
	filters, err := filter.NewCompiler()
	if err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	if o.MaxDataBytes <= 0 {
		o.MaxDataBytes = relay.DefaultMaxDataSize
	}
	o.MaxDataBytes = min(o.MaxDataBytes, o.Journal.MaxEventBytes()-recordOverhead)
	if o.MaxEndpoints <= 0 {
		o.MaxEndpoints = DefaultMaxEndpoints
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Control{Options: o, filters: filters, signIns: rate.NewLimiter(signInsPerSecond, 10*signInsPerSecond),
		proofs: rate.NewLimiter(proofsPerSecond, 10*proofsPerSecond)}, nil
}

func (c *Control) now() time.Time { return c.Now().UTC() }

// allow checks that the caller's credential is still good and that it has the scope, in the tenant if one is named. A
// refusal is recorded. The act is told the scope.
func (c *Control) allow(ctx context.Context, who access.Caller, scope access.Scope, act *audit.Act) error {
	act.Scope = scope
	who.Exercise(scope)
	if who.CredentialID != "" {
		if err := c.Access.Live(who); err != nil {
			return err
		}
	}
	switch {
	case !who.May(scope):
		return c.refuse(ctx, who, *act, &ForbiddenError{Scope: scope, Reason: "the caller has no such scope"})
	case !who.In(access.Production) && slices.Contains(productionOnly, scope):
		return c.refuse(ctx, who, *act, &ForbiddenError{Scope: scope, Reason: "the account is for the sandbox"})
	case act.Tenant != "" && !who.Sees(act.Tenant):
		return c.refuse(ctx, who, *act, &ForbiddenError{Scope: scope, Reason: "the caller is not of this tenant"})
	}
	return nil
}

// productionOnly are the scopes of what has no sandbox: events as they were published, what may leave at all, and a copy of everything.
var productionOnly = []access.Scope{access.EventsRead, access.EventsErase, access.PolicyWrite, access.SystemBackup}

// refuse records a refusal, or counts it where there were many, and returns it.
func (c *Control) refuse(ctx context.Context, who access.Caller, act audit.Act, refusal error) error {
	c.Logger.Warn("refused", "act", act.Name, "object", act.Object, "tenant", act.Tenant,
		"account", who.Account, "credential", who.CredentialID, "address", who.Address, "reason", refusal)
	if err := c.Audit.Refuse(ctx, who, act, refusal.Error()); err != nil {
		return errors.Join(refusal, translated(err))
	}
	return refusal
}

// act does a privileged act between its two records.
func (c *Control) act(ctx context.Context, who access.Caller, act audit.Act, do func() (map[string]string, error)) error {
	return c.alter(ctx, who, act, func() (audit.Result, error) {
		detail, err := do()
		return audit.Result{Detail: detail}, err
	})
}

// alter is act for what tells afterwards what it changed.
func (c *Control) alter(ctx context.Context, who access.Caller, act audit.Act, do func() (audit.Result, error)) error {
	return translated(c.Audit.Change(ctx, who, act, func() (audit.Result, error) {
		result, err := do()
		return result, translated(err)
	}))
}

// Relay is the caller as which the relay itself acts on an endpoint: it suspends one whose receiver is gone.
func Relay() access.Caller {
	return access.Caller{Account: access.RelayAccount, Role: access.Operator, Scopes: []access.Scope{access.EndpointsApprove}}
}

// EnterDev marks the data before endpoints become active without approval. Call it before serving with Dev.
func (c *Control) EnterDev(ctx context.Context) error {
	return c.act(ctx, Relay(), audit.Act{Name: "dev.enter", Anyway: true}, func() (map[string]string, error) {
		return nil, c.Registry.MarkDev(ctx)
	})
}

// LeaveDev puts every endpoint back to pending if the data is marked, and returns how many. Call it before anything is
// sent, when serving without Dev.
func (c *Control) LeaveDev(ctx context.Context) (n int, err error) {
	marked, err := c.Registry.Dev(ctx)
	if err != nil || !marked {
		return 0, translated(err)
	}
	err = c.act(ctx, Relay(), audit.Act{Name: "dev.leave", Anyway: true}, func() (map[string]string, error) {
		n, err = c.Registry.LeaveDev(ctx, c.now())
		return map[string]string{"endpoints": fmt.Sprint(n)}, err
	})
	return n, err
}
