-- Takes publications from a publisher's rate limit, which is shared by all nodes.
--
-- KEYS[1]  when the publisher will have paid for all publications taken, in seconds since 1970
-- ARGV[1]  publications per second
-- ARGV[2]  the number of publications
--
-- Returns '0' if they are taken, otherwise the seconds until a retry can succeed; as text, because
-- Redis truncates numbers to integers. Implements the generic cell rate algorithm (ITU-T I.371),
-- which stores one number: each publication costs 1/rate seconds of the future, up to the burst,
-- which is the number allowed per second and at least one. A larger batch is taken when there
-- is no debt, and becomes a debt that delays the next calls.
local rate, count = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local burst = math.max(1, rate)
local most = math.max(burst, count) / rate
-- Limited to the largest possible debt, in case the clock was set back or the rate was lower
-- before.
local paid = math.min(math.max(now, tonumber(redis.call('GET', KEYS[1]) or now)), now + math.max(most, 100 / rate))
local wait = paid - now - (burst - math.min(burst, count)) / rate
if wait > 1e-6 then
    return string.format('%.6f', wait)
end
paid = paid + count / rate
redis.call('SET', KEYS[1], string.format('%.6f', paid), 'PX', math.ceil((paid - now) * 1000))
return '0'
