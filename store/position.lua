-- Moves a partition's position from ARGV[1] to ARGV[2]; also fine if it is there already, by an earlier send of this
-- command whose answer was lost. Returns whether it is there now. A missing position is a lost one.
local now = redis.call('GET', KEYS[1])
if now == ARGV[2] then return 1 end
if now ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
