package store

import (
	"context"
	"strings"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"
)

// Spend takes n from a bucket that fills at rate a second and holds burst, for all who use this Redis with the same prefix, or takes
// nothing and says when there will be so much. A Redis that was emptied has full buckets.
func (s *inRedis) Spend(ctx context.Context, bucket string, rate, burst, n int64) (taken bool, when time.Duration, err error) {
	if err := s.enter(ctx); err != nil {
		return false, 0, err
	}
	limit := redis_rate.Limit{Rate: int(rate), Burst: int(burst), Period: time.Second}
	r, err := redis_rate.NewLimiter(bucketKeys{s.client, s.prefix + "quota:"}).AllowN(ctx, bucket, limit, int(n))
	if err != nil {
		return false, 0, err
	}
	return int64(r.Allowed) == n, max(0, r.RetryAfter), nil
}

// bucketKeys puts the limiter's keys among the view's, so that an account that may touch nothing else can be used.
type bucketKeys struct {
	redis.UniversalClient
	prefix string
}

func (b bucketKeys) key(keys []string) []string {
	return []string{b.prefix + strings.TrimPrefix(keys[0], "rate:")}
}

// Eval runs a script on the key as it is here.
func (b bucketKeys) Eval(ctx context.Context, script string, keys []string, args ...any) *redis.Cmd {
	return b.UniversalClient.Eval(ctx, script, b.key(keys), args...)
}

// EvalSha is Eval for a script that is known there.
func (b bucketKeys) EvalSha(ctx context.Context, sha string, keys []string, args ...any) *redis.Cmd {
	return b.UniversalClient.EvalSha(ctx, sha, b.key(keys), args...)
}
