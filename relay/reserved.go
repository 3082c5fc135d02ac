package relay

// ReservedTenant is the relay's own: its events are operational ones, nobody publishes to it, and only operators of all tenants
// register endpoints in it.
const ReservedTenant = "sealpost"
