package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/control"
)

// Bounds of a batch and of the gRPC face.
const (
	MaxBatchEvents = control.MaxBatch
	MaxBatchBytes  = 32 << 20 // or an event's bound and bodySlack, if that is more
	maxStreams     = 1000     // calls at once on one connection
	maxGRPCHeader  = 16 << 10 // bytes
)

// Options are the parts that the faces stand on. All but those with a default are required.
type Options struct {
	Auth       Authenticator
	Noter      Noter
	Events     Events
	Endpoints  Endpoints
	Incidents  Incidents
	EventTypes EventTypes
	Deliveries Deliveries
	Operations Operations
	Access     Access
	System     System
	Audit      Audit
	// OAuth is the token endpoint for clients with a certificate.
	OAuth OAuth
	// LogCalls leaves a line of each call in the log at the level of info; else at that of debug.
	LogCalls bool
	// TLS is for the gRPC face; nil is plain text, for loopback only: whoever listens sees to that.
	TLS *tls.Config
	// MaxDataBytes is the bound of an event's data, as control has it; default relay.DefaultMaxDataSize.
	MaxDataBytes int
	Registerer   prometheus.Registerer // default keeps the figures to itself
	Logger       *slog.Logger          // default discards
}

// Server is both faces.
type Server struct {
	grpc     *grpc.Server
	health   *health.Server
	local    *loopback
	guard    *guard
	access   Access
	oauth    OAuth
	handler  http.Handler
	log      *slog.Logger
	maxData  int
	maxBatch int64

	closing chan struct{} // closed by Stop
	stop    sync.Once
}

// New makes both faces. Nothing listens yet.
func New(o Options) (*Server, error) {
	if o.Auth == nil || o.Noter == nil || o.Events == nil || o.Endpoints == nil || o.EventTypes == nil || o.Incidents == nil || o.Deliveries == nil || o.Operations == nil || o.Access == nil || o.System == nil || o.Audit == nil {
		return nil, errors.New("api: a part is missing")
	}
	if o.MaxDataBytes <= 0 {
		o.MaxDataBytes = relay.DefaultMaxDataSize
	}
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	m, err := newMetrics(o.Registerer, []*grpc.ServiceDesc{
		&sealpostv1.EventService_ServiceDesc, &sealpostv1.EndpointService_ServiceDesc, &sealpostv1.IncidentService_ServiceDesc,
		&sealpostv1.DeliveryService_ServiceDesc, &sealpostv1.OperationService_ServiceDesc, &sealpostv1.AccessService_ServiceDesc,
		&sealpostv1.SystemService_ServiceDesc, &sealpostv1.AuditService_ServiceDesc, &sealpostv1.PolicyService_ServiceDesc,
	})
	if err != nil {
		return nil, fmt.Errorf("api: register metrics: %w", err)
	}
	s := &Server{
		guard:    &guard{auth: o.Auth, noter: o.Noter, metrics: m, log: o.Logger, level: slog.LevelDebug},
		access:   o.Access,
		oauth:    o.OAuth,
		health:   health.NewServer(),
		log:      o.Logger,
		maxData:  o.MaxDataBytes,
		closing:  make(chan struct{}),
		maxBatch: max(MaxBatchBytes, int64(o.MaxDataBytes)+bodySlack),
	}
	if o.LogCalls {
		s.guard.level = slog.LevelInfo
	}
	s.grpc = grpc.NewServer(s.serverOptions(o.TLS)...)
	s.local = newLoopback(s.guard.unary, s.guard.stream)
	for _, r := range []grpc.ServiceRegistrar{s.grpc, s.local} {
		sealpostv1.RegisterEventServiceServer(r, &eventService{events: o.Events, metrics: m, closing: s.closing})
		sealpostv1.RegisterEndpointServiceServer(r, &endpointService{endpoints: o.Endpoints})
		sealpostv1.RegisterIncidentServiceServer(r, &incidentService{incidents: o.Incidents})
		sealpostv1.RegisterPolicyServiceServer(r, &policyService{types: o.EventTypes})
		sealpostv1.RegisterDeliveryServiceServer(r, &deliveryService{deliveries: o.Deliveries, operations: o.Operations, closing: s.closing})
		sealpostv1.RegisterOperationServiceServer(r, &operationService{operations: o.Operations})
		sealpostv1.RegisterAccessServiceServer(r, &accessService{access: o.Access})
		sealpostv1.RegisterAuditServiceServer(r, &auditService{audit: o.Audit, closing: s.closing})
	}
	// A stream of bytes is for gRPC alone.
	sealpostv1.RegisterSystemServiceServer(s.grpc, &systemService{system: o.System, closing: s.closing})
	grpc_health_v1.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	if s.handler, err = s.newHandler(); err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	return s, nil
}

// GRPC is the gRPC face; its owner serves and stops it.
func (s *Server) GRPC() *grpc.Server { return s.grpc }

// Health is what the gRPC health service answers; it says SERVING until told otherwise.
func (s *Server) Health() *health.Server { return s.health }

// Stop ends the gRPC face: it takes no new calls, lets those under way finish until ctx ends, and then ends them. Streams
// end once what they have handed to control is answered, on both faces. Whoever serves HTTP shuts its server down after
// this has begun. Stop may be called more than once.
func (s *Server) Stop(ctx context.Context) {
	s.stop.Do(func() {
		s.health.Shutdown()
		close(s.closing)
	})
	done := make(chan struct{})
	go func() { defer close(done); s.grpc.GracefulStop() }()
	select {
	case <-done:
	case <-ctx.Done():
		s.grpc.Stop()
		<-done
	}
}

func (s *Server) serverOptions(conf *tls.Config) []grpc.ServerOption {
	all := []grpc.ServerOption{
		grpc.UnaryInterceptor(s.guard.unary),
		grpc.StreamInterceptor(s.guard.stream),
		grpc.MaxRecvMsgSize(int(s.maxBatch)),
		grpc.MaxSendMsgSize(int(s.maxBatch)),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(maxGRPCHeader),
		grpc.ConnectionTimeout(headerTime),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: 15 * time.Minute, Time: time.Minute, Timeout: 20 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	}
	if conf != nil {
		all = append(all, grpc.Creds(credentials.NewTLS(conf)))
	}
	return all
}
