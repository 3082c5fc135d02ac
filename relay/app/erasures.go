package app

import (
	"context"

	"github.com/sealpost/sealpost/relay/internal/erasure"
)

func (a *App) openErasures(ctx context.Context) error {
	bucket, err := a.journal.Bucket(ctx, erasure.BucketName)
	if err != nil {
		return err
	}
	if a.erasures, err = erasure.Open(ctx, bucket, a.keys, a.log); err != nil {
		return err
	}
	a.onClose("erasures", func(context.Context) error { a.erasures.Close(); return nil })
	return nil
}
