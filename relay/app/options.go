package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/control"
	"github.com/sealpost/sealpost/relay/internal/lease"
	"github.com/sealpost/sealpost/relay/internal/quota"
	"github.com/sealpost/sealpost/relay/internal/retry"
)

// Options are everything a Sealpost process is run with. The zero value of each field is a good one; the comments are the
// manual of the configuration file, whose keys are the names in the tags.
type Options struct {
	// Data is the folder that holds everything Sealpost keeps: the journal, the keys, the built-in CA, the embedded view.
	// Default ./sealpost-data.
	Data string `yaml:"data"`

	// GRPC, HTTP and Admin are the addresses listened on: the API over gRPC, the API over REST, and metrics with health.
	// Defaults 127.0.0.1:7780, 127.0.0.1:7781, 127.0.0.1:7782. An address that is not loopback needs TLS.
	GRPC  string `yaml:"grpc"`
	HTTP  string `yaml:"http"`
	Admin string `yaml:"admin"`
	// Public is one more address, for the Internet: it serves the endpoints' public keys and the CA of our client certificates, and
	// nothing else. Default none.
	Public string `yaml:"public"`

	// TLS is for all listeners.
	TLS ListenerTLS `yaml:"tls"`

	// Dev allows http:// and loopback endpoints and makes endpoints active at once. It marks the data folder: without it, the next
	// start puts every endpoint back to pending. Listeners must be loopback.
	Dev bool `yaml:"dev"`

	NATS    NATS    `yaml:"nats"`
	Journal Journal `yaml:"journal"`

	// Redis is the URL of the view: redis://, rediss://, redis+cluster:// or rediss+cluster://, with ?prefix=. Default: a
	// store in the data folder.
	Redis string `yaml:"redis"`

	// Role is what this process does: "all", "api" or "relay". Default all. The others need an external NATS and Redis.
	Role string `yaml:"role"`
	// LeaseLife is after what time at most the partitions of a relay that died are taken over by others, and for how long a
	// relay goes on that cannot reach NATS; of an external server. Default 5s, 1s to 5m.
	LeaseLife time.Duration `yaml:"leaseLife"`

	Egress     Egress     `yaml:"egress"`
	Onboarding Onboarding `yaml:"onboarding"`
	Limits     Limits     `yaml:"limits"`
	Delivery   Delivery   `yaml:"delivery"`
	Retention  Retention  `yaml:"retention"`
	Audit      Audit      `yaml:"audit"`
	ClientCert ClientCert `yaml:"clientCertificate"`

	// StopGrace is how long a stop waits for what is in flight. Default 20s.
	StopGrace time.Duration `yaml:"stopGrace"`

	Access Access `yaml:"access"`

	// OpenView opens the view at a URL or folder; required. (store.Open is the one.)
	OpenView func(ctx context.Context, url string, log *slog.Logger) (relay.Ledger, error) `yaml:"-"`
	// Version is this build's.
	Version string `yaml:"-"`
	// Logger gets everything; default slog.Default().
	Logger *slog.Logger `yaml:"-"`
	// Clock is for tests of what takes days; default time.Now.
	Clock func() time.Time `yaml:"-"`
	// Fsync is for tests of disks that fail; default (*os.File).Sync.
	Fsync func(*os.File) error `yaml:"-"`
}

// ListenerTLS names the certificate of our own listeners.
type ListenerTLS struct {
	// Cert and Key are PEM files, looked at every two seconds: whatever renews them (cert-manager, a Vault agent, an ACME client)
	// replaces them, and the next handshake has the new certificate.
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	// AllowTLS12 admits TLS 1.2 beside 1.3.
	AllowTLS12 bool `yaml:"allowTls12"`
}

// Access says how callers are known.
type Access struct {
	// Issuer is the URL, without a path, that OAuth clients know the REST face by. Default https:// and the HTTP listener's address; the token
	// endpoint is there where that listener has TLS.
	Issuer string `yaml:"issuer"`
	// AccessTokenLife is how long a token of the OAuth endpoint is good. Default 1h, 5m to 12h.
	AccessTokenLife time.Duration `yaml:"accessTokenLife"`
	// Roots is a PEM file of CAs whose client certificates may be mapped to accounts by their SPIFFE IDs. Default none.
	Roots string `yaml:"roots"`
	// LogCalls leaves a line of every call in the log: account, credential, certificate, address, scope. Default: at the level of debug.
	LogCalls bool `yaml:"logCalls"`
	OIDC     OIDC `yaml:"oidc"`
}

// OIDC is the OpenID provider that people sign in at; without an issuer nobody does.
type OIDC struct {
	// Issuer is the provider's URL; its configuration is read below it.
	Issuer string `yaml:"issuer"`
	// ClientID is ours at the provider, where http://127.0.0.1/callback has to be a redirect URI, with any port.
	ClientID string `yaml:"clientId"`
	// ClientSecretFile holds one line, and is for its owner's eyes; none for a public client.
	ClientSecretFile string `yaml:"clientSecretFile"`
	// Scopes are asked for beside openid. Default profile, email, groups.
	Scopes []string `yaml:"scopes"`
	// GroupsClaim names a person's groups. Default groups.
	GroupsClaim string `yaml:"groupsClaim"`
	// NameClaim names the person's account. Default email, where the provider verified it.
	NameClaim string `yaml:"nameClaim"`
	// Roles are given by group: the first that a person is in counts, and who is in none is refused.
	Roles []GroupRole `yaml:"roles"`
	// Life is how long a sign-in is good. Default 8h, 5m to 24h.
	Life time.Duration `yaml:"life"`
	// CA is a PEM file of roots to trust the provider by; default the system's.
	CA string `yaml:"ca"`
}

// GroupRole gives the people of a group a role.
type GroupRole struct {
	// Group is as the provider names it.
	Group string `yaml:"group"`
	// Role is operator, security, auditor, publisher or partner.
	Role string `yaml:"role"`
	// Tenant is the only one; none for all, which only operators, security and auditors can have.
	Tenant string `yaml:"tenant"`
	// Environment is sandbox or production; none for both.
	Environment string `yaml:"environment"`
}

// NATS is an external server; without a URL the embedded one is used.
type NATS struct {
	// URL is nats://host:4222[,nats://...] or tls://...
	URL string `yaml:"url"`
	// Durability is what the server does before it acknowledges: "fsync" or "replicated". It must be declared with URL.
	Durability string `yaml:"durability"`
	// Replicas of each stream. Default 1, or 3 with "replicated".
	Replicas int `yaml:"replicas"`
	// Credentials is a NATS credentials file.
	Credentials string `yaml:"credentials"`
	// CA is a PEM file of roots for a tls:// server; default the system's.
	CA string `yaml:"ca"`
}

// Journal bounds the logs.
type Journal struct {
	// Partitions share the tenants. Default 1; fixed for the life of a journal.
	Partitions int `yaml:"partitions"`
	// EventsMaxBytes and OutcomesMaxBytes bound each partition's logs. A full log refuses. Defaults 32 and
	// 16 GiB, on an external server 8 and 4: it reserves them.
	EventsMaxBytes   int64 `yaml:"eventsMaxBytes"`
	OutcomesMaxBytes int64 `yaml:"outcomesMaxBytes"`
	// AuditMaxBytes bounds the audit log. Default 4 GiB.
	AuditMaxBytes int64 `yaml:"auditMaxBytes"`
	// DedupWindow is how long a repeated event id gets the first answer. Default 10m, at most 24h; an id takes about 230 bytes of
	// memory.
	DedupWindow time.Duration `yaml:"dedupWindow"`
	// MaxEventBytes bounds an event's data. Default 8 MiB.
	MaxEventBytes int `yaml:"maxEventBytes"`
	// MaxUncommittedBytes bounds what waits for its sync; beyond it Publish answers RESOURCE_EXHAUSTED. Default 64 MiB.
	MaxUncommittedBytes int64 `yaml:"maxUncommittedBytes"`
	// MinFreeDisk refuses events below so many free bytes. Default max(1 GiB, 5 % of the disk); -1 for no check.
	MinFreeDisk int64 `yaml:"minFreeDisk"`
}

// Egress says where deliveries may go.
type Egress struct {
	// Allow are CIDRs that may be dialled although they are not public.
	Allow []netip.Prefix `yaml:"allow"`
	// Ports restricts the ports that may be dialled; default any.
	Ports []uint16 `yaml:"ports"`
	// NameServer, IP:port, is asked for the addresses of receivers. Default: the system's.
	NameServer string `yaml:"nameServer"`
}

// Onboarding says what an endpoint needs before it is sent to, and to stay so.
type Onboarding struct {
	// Proof is "required" or "off". Off is for closed networks, where hosts have neither a zone nor certificates: new endpoints wait for
	// approval at once. Each start with it, and each endpoint registered so, is in the audit log. Back at "required", endpoints without a proof have
	// proofLife to get one. Default required.
	Proof string `yaml:"proof"`
	// ProofLife is how long a proof holds: before its end the host is asked again, and without one the endpoint is suspended. Default
	// 720h (30 days), 1s to 2160h.
	ProofLife time.Duration `yaml:"proofLife"`
	// ReviewEvery is after what time an approved endpoint has to be looked at again. Default 2160h (90 days), 1s to 8784h.
	ReviewEvery time.Duration `yaml:"reviewEvery"`
}

// Values of Onboarding.Proof.
const (
	ProofRequired = "required"
	ProofOff      = "off"
)

func (o *Onboarding) check() error {
	if o.Proof != ProofRequired && o.Proof != ProofOff {
		return fmt.Errorf("onboarding.proof: %q is not one of required, off", o.Proof)
	}
	if o.ProofLife < time.Second || o.ProofLife > 90*24*time.Hour {
		return fmt.Errorf("onboarding.proofLife: %v is not between 1s and 2160h", o.ProofLife)
	}
	if o.ReviewEvery < time.Second || o.ReviewEvery > 366*24*time.Hour {
		return fmt.Errorf("onboarding.reviewEvery: %v is not between 1s and 8784h", o.ReviewEvery)
	}
	return nil
}

// Limits bound what tenants may do.
type Limits struct {
	Publish PublishLimits `yaml:"publish"`
}

// PublishLimits are the publish quotas. Beyond its quota a tenant's events are refused, one by one, with the time to come again.
type PublishLimits struct {
	// EventsPerSecond and BytesPerSecond, of data, are for each tenant that Tenants does not name. Default no bound.
	EventsPerSecond int64 `yaml:"eventsPerSecond"`
	BytesPerSecond  int64 `yaml:"bytesPerSecond"`
	// Tenants are quotas by tenant, in place of the ones above.
	Tenants map[string]PublishLimit `yaml:"tenants"`
	// Burst is for how long a quota can be saved up. Default 1s; the largest event always fits.
	Burst time.Duration `yaml:"burst"`
	// Processes is how many accept events. They hold the quotas together through Redis; while it cannot be reached, each goes by
	// its own part. Default 1.
	Processes int `yaml:"processes"`
}

// PublishLimit is one tenant's quota; 0 is no bound.
type PublishLimit struct {
	EventsPerSecond int64 `yaml:"eventsPerSecond"`
	BytesPerSecond  int64 `yaml:"bytesPerSecond"`
}

// Delivery bounds the lanes.
type Delivery struct {
	// InFlight bounds the attempts under way; those that last for over a second are bounded by twice as many beside them.
	// LaneBytes bounds the bodies in memory. Defaults 512 and 256 MiB.
	InFlight  int `yaml:"inFlight"`
	LaneBytes int `yaml:"laneBytes"`
	// RetryIntervals are the waits after the first, second, ... failed attempt; the last repeats. Default 5s, 30s, 2m, 10m,
	// 30m, 1h, 2h, 4h, 8h, 12h.
	RetryIntervals []time.Duration `yaml:"retryIntervals"`
	// SyncEvery is how long outcomes are gathered for one sync. Default 50ms.
	SyncEvery time.Duration `yaml:"syncEvery"`
	// CheckpointEvery is how often the open deliveries are saved. Default 10s.
	CheckpointEvery time.Duration `yaml:"checkpointEvery"`
}

// Retention says how long what is settled is kept.
type Retention struct {
	// Age of settled events, outcomes and deliveries in the view. Default 168h.
	Age time.Duration `yaml:"age"`
	// Audit is how long the audit log is kept, whatever it takes: full, it refuses privileged acts. Default 9600h (400 days), at
	// least 24h.
	Audit time.Duration `yaml:"audit"`
	// Backups is how long copies of the data are kept, as by sealpost backup: so long, beyond the times above, tombstones of
	// erased subjects stay, so that a restored copy delivers nothing of them. Default 2160h (90 days).
	Backups time.Duration `yaml:"backups"`
	// TrimEvery is how often the logs let go of what is past its time. Default 1m.
	TrimEvery time.Duration `yaml:"trimEvery"`
	// ViewBytes bounds the view. Default 8 GiB; -1 for no bound.
	ViewBytes int64 `yaml:"viewBytes"`
}

// Audit says where the audit log's signed checkpoints go beside the data folder, so that a log that was made anew is found out.
type Audit struct {
	// Checkpoints is a file that they are appended to, a line each, or a folder for it: outside of the data folder, best on another machine or
	// made append-only (chattr +a). At each start the log is compared with the last of them; while it does not go on where that ended, no
	// privileged act is done (sealpost audit accept). Default none.
	Checkpoints string `yaml:"checkpoints"`
	// PublishEvery is how often a checkpoint is appended, where there is a new one. Default 1m, at least 1s.
	PublishEvery time.Duration `yaml:"publishEvery"`
}

// ClientCert is the certificate presented to endpoints; default: one for each, of the built-in CA. Its files are looked at as those of
// TLS are.
type ClientCert struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

// Roles of a process.
const (
	RoleAll   = "all"
	RoleAPI   = "api"
	RoleRelay = "relay"
)

// withDefaults fills in and checks; the error names the key, as the configuration file has it.
func (o Options) withDefaults() (Options, error) {
	defaultTo(&o.Data, "sealpost-data")
	defaultTo(&o.GRPC, "127.0.0.1:7780")
	defaultTo(&o.HTTP, "127.0.0.1:7781")
	defaultTo(&o.Admin, "127.0.0.1:7782")
	defaultTo(&o.Role, RoleAll)
	defaultTo(&o.LeaseLife, lease.DefaultLife)
	defaultTo(&o.StopGrace, 20*time.Second)
	defaultTo(&o.Journal.Partitions, 1)
	defaultTo(&o.Journal.MaxEventBytes, relay.DefaultMaxDataSize)
	defaultTo(&o.Retention.Age, 7*24*time.Hour)
	defaultTo(&o.Retention.ViewBytes, 8<<30)
	defaultTo(&o.Retention.Audit, 400*24*time.Hour)
	defaultTo(&o.Retention.Backups, 90*24*time.Hour)
	defaultTo(&o.Audit.PublishEvery, time.Minute)
	defaultTo(&o.Onboarding.Proof, ProofRequired)
	defaultTo(&o.Onboarding.ProofLife, control.DefaultProofLife)
	defaultTo(&o.Onboarding.ReviewEvery, control.DefaultReviewEvery)
	defaultTo(&o.Version, "dev")
	o.Access.withDefaults()
	if o.Redis != "" && !strings.Contains(o.Redis, "://") {
		return o, errors.New("redis: must be a URL such as redis://localhost:6379/0")
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Fsync == nil {
		o.Fsync = (*os.File).Sync
	}
	if o.OpenView == nil {
		return o, errors.New("app: OpenView is required")
	}
	return o, errors.Join(o.check(), o.Access.check())
}

func (o *Options) check() error {
	switch o.Role {
	case RoleAll:
	case RoleAPI, RoleRelay:
		if o.NATS.URL == "" || o.Redis == "" {
			return fmt.Errorf("role: %q shares its work with other processes and needs nats.url and redis", o.Role)
		}
	default:
		return fmt.Errorf("role: %q is not one of all, api, relay", o.Role)
	}
	if o.Retention.Audit < 24*time.Hour {
		return fmt.Errorf("retention.audit: must be at least 24h, not %v", o.Retention.Audit)
	}
	if err := o.Onboarding.check(); err != nil {
		return err
	}
	if o.Retention.Backups < 0 {
		return fmt.Errorf("retention.backups: must not be negative")
	}
	if o.Audit.PublishEvery < time.Second {
		return fmt.Errorf("audit.publishEvery: must be at least 1s, not %v", o.Audit.PublishEvery)
	}
	if inside, err := within(o.Audit.Checkpoints, o.Data); err != nil {
		return fmt.Errorf("audit.checkpoints: %w", err)
	} else if inside {
		return fmt.Errorf("audit.checkpoints: %q is in the data folder: who can change the log there could change these too", o.Audit.Checkpoints)
	}
	if _, err := netip.ParseAddrPort(o.Egress.NameServer); err != nil && o.Egress.NameServer != "" {
		return fmt.Errorf("egress.nameServer: %q is not IP:port", o.Egress.NameServer)
	}
	if err := o.quotas().Check(); err != nil {
		return fmt.Errorf("limits.publish: %w", err)
	}
	if o.LeaseLife < lease.MinLife || o.LeaseLife > lease.MaxLife {
		return fmt.Errorf("leaseLife: %v is not between %v and %v", o.LeaseLife, lease.MinLife, lease.MaxLife)
	}
	if (o.TLS.Cert == "") != (o.TLS.Key == "") {
		return errors.New("tls: cert and key go together")
	}
	if (o.ClientCert.Cert == "") != (o.ClientCert.Key == "") {
		return errors.New("clientCertificate: cert and key go together")
	}
	if err := (retry.Schedule{Intervals: o.Delivery.RetryIntervals}).Check(); err != nil {
		return fmt.Errorf("delivery.retryIntervals: %w", err)
	}
	for key, address := range map[string]string{"grpc": o.GRPC, "http": o.HTTP, "admin": o.Admin, "public": o.Public} {
		if key == "public" && address == "" {
			continue
		}
		if err := o.checkListener(key, address); err != nil {
			return err
		}
	}
	return nil
}

// within tells whether a path leads into a folder, or to it. The empty one does not.
func within(path, folder string) (bool, error) {
	if path == "" {
		return false, nil
	}
	for _, p := range []*string{&path, &folder} {
		full, err := filepath.Abs(*p)
		if err != nil {
			return false, err
		}
		if real, err := filepath.EvalSymlinks(full); err == nil {
			full = real
		} else if above, err := filepath.EvalSymlinks(filepath.Dir(full)); err == nil { // it may not be there yet
			full = filepath.Join(above, filepath.Base(full))
		}
		*p = full
	}
	rel, err := filepath.Rel(folder, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator)), nil
}

// checkListener refuses to listen to the world without TLS, or in --dev at all.
func (o *Options) checkListener(key, address string) error {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return fmt.Errorf("%s: %q is not host:port", key, address)
	}
	switch {
	case onLoopback(address):
		return nil
	case o.Dev:
		return fmt.Errorf("%s: with --dev only loopback addresses may be listened on, not %q", key, address)
	case o.TLS.Cert == "":
		return fmt.Errorf("%s: %q is not loopback and needs tls.cert and tls.key", key, address)
	}
	return nil
}

// onLoopback tells whether only this machine can reach what listens at an address.
func onLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

func defaultTo[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// quotas are the publish quotas as they were configured.
func (o *Options) quotas() quota.Options {
	p := o.Limits.Publish
	tenants := make(map[string]quota.Limit, len(p.Tenants))
	for name, l := range p.Tenants {
		tenants[name] = quota.Limit(l)
	}
	return quota.Options{
		Default: quota.Limit{EventsPerSecond: p.EventsPerSecond, BytesPerSecond: p.BytesPerSecond}, Tenants: tenants,
		Burst: p.Burst, Processes: p.Processes, MaxEvent: int64(o.Journal.MaxEventBytes),
	}
}
