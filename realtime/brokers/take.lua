-- Take publications out of what a publisher may publish: a rate, shared by all nodes.
--
-- KEYS[1]  when the publisher will have paid for all that it took, in seconds since 1970
-- ARGV[1]  publications a second
-- ARGV[2]  how many
--
-- Returns '0' where they are taken, otherwise the seconds until it is worth asking again; as text, since Redis cuts
-- numbers to integers. The generic cell rate algorithm (ITU-T I.371), which keeps one number: each publication costs
-- 1/rate seconds of the future, and the future may be no further than the burst: what a second allows, at least one.
-- Who takes more than that at once (a batch) gets it when nothing is owed, and owes it from then on.
local rate, count = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local burst = math.max(1, rate)
local most = math.max(burst, count) / rate
-- Never further than can be owed: not if the clock was set back, and not if the rate was lower before.
local paid = math.min(math.max(now, tonumber(redis.call('GET', KEYS[1]) or now)), now + math.max(most, 100 / rate))
local wait = paid - now - (burst - math.min(burst, count)) / rate
if wait > 1e-6 then
    return string.format('%.6f', wait)
end
paid = paid + count / rate
redis.call('SET', KEYS[1], string.format('%.6f', paid), 'PX', math.ceil((paid - now) * 1000))
return '0'
