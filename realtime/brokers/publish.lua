-- Stamp a publication and send it, as one step. Follows position.lua.
--
-- KEYS[2]  answer to the idempotency key, or '' (then nothing is looked up or stored)
-- ARGV[2]  Redis channel
-- ARGV[3]  body: the JSON that follows the envelope's head
-- ARGV[4]  fingerprint of the body
-- ARGV[5]  seconds that the answer is kept
--
-- Returns {epoch, offset, nodes, repeated} or {'conflict'}. The order matters: the first write stands before PUBLISH,
-- so that a Redis which refuses writes (full, replica, bad disk) refuses the whole publication.
if KEYS[2] then
    local stored = redis.call('GET', KEYS[2])
    if stored then
        local fingerprint, epoch, offset, nodes = string.match(stored, '^(%S+) (%S+) (%S+) (%S+)$')
        if fingerprint ~= ARGV[4] then
            return {'conflict'}
        end
        return {epoch, offset, nodes, '1'}
    end
end

local nodes = string.format('%d', redis.call('PUBSUB', 'NUMSUB', ARGV[2])[2])
local epoch = living(KEYS[1], ARGV[1])
local offset = string.format('%.0f', redis.call('HINCRBY', KEYS[1], 'offset', 1))
keep(KEYS[1], offset)
redis.call('PUBLISH', ARGV[2], '1 ' .. epoch .. ' ' .. offset .. ' ' .. ARGV[3])
if KEYS[2] then
    redis.call('SET', KEYS[2], ARGV[4] .. ' ' .. epoch .. ' ' .. offset .. ' ' .. nodes, 'EX', ARGV[5])
end
return {epoch, offset, nodes, '0'}
