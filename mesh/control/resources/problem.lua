-- Turns the JSON of a google.rpc.Status (what transcoding makes of a failed call) into a problem document (RFC 9457).
-- Values are cut out of the JSON as they stand, escapes included, so nothing is decoded and encoded again.

-- google.rpc.Code to HTTP status, as mesh/problem.py has it.
local HTTP = {
  [1] = 499, [3] = 400, [4] = 504, [5] = 404, [6] = 409, [7] = 403, [8] = 429, [9] = 409, [10] = 409, [11] = 400,
  [12] = 501, [14] = 503, [16] = 401,
}
local BODY_BYTES_MAX = 65536
local DEPTH_MAX = 16

-- Index of the last character of the JSON value that begins at i.
local function value_end(s, i, depth)
  assert(depth <= DEPTH_MAX and i <= #s)
  local first = s:sub(i, i)
  if first == '"' then
    local j = i + 1
    while true do
      local c = assert(s:byte(j))
      if c == 34 then return j end
      j = j + (c == 92 and 2 or 1)
    end
  elseif first == '{' or first == '[' then
    local j = i + 1
    while true do
      local c = s:sub(j, j)
      if c == '}' or c == ']' then return j end
      if c == '"' or c == '{' or c == '[' then j = value_end(s, j, depth + 1) end
      j = j + 1
      assert(j <= #s)
    end
  end
  return assert(s:find('[,}%]%s]', i)) - 1
end

-- The members of an object: name to the text of the value.
local function members(s)
  local found, i = {}, 2
  while true do
    local name = s:find('"', i, true)
    if not name then return found end
    local name_end = value_end(s, name, 0)
    local value = assert(s:find('[^%s:]', name_end + 1))
    local last = value_end(s, value, 0)
    found[s:sub(name + 1, name_end - 1)] = s:sub(value, last)
    i = last + 1
  end
end

-- The texts of an array's objects.
local function objects(s)
  local found, i = {}, 2
  while true do
    local start = s:find('{', i, true)
    if not start then return found end
    local last = value_end(s, start, 0)
    found[#found + 1] = s:sub(start, last)
    i = last + 1
  end
end

local function document(json)
  local status = members(json)
  local code = tonumber(status.code)
  local http = HTTP[code] or 500
  local reason, remedy, errors = 'RPC_FAILED', nil, {}
  for _, text in ipairs(objects(status.details or '[]')) do
    local detail = members(text)
    if detail.reason then
      reason = detail.reason:sub(2, -2):match('^[A-Z0-9_]+$') or reason
      remedy = members(detail.metadata or '{}').remedy
    end
    for _, violation in ipairs(objects(detail.fieldViolations or detail.field_violations or '[]')) do
      local parts = members(violation)
      errors[#errors + 1] = '{"field":' .. (parts.field or '""') .. ',"rule":' .. (parts.description or '""') .. '}'
    end
  end
  local words = reason:gsub('_', ' '):lower()
  local message = status.message or '""'
  if reason == 'RPC_FAILED' then
    -- Not one of our own errors: its text may name what is inside.
    message = '"The request could not be answered."'
  end
  local parts = {
    '{"type":"urn:isthmus:problem:' .. reason:gsub('_', '-'):lower() .. '"',
    '"title":"' .. words:sub(1, 1):upper() .. words:sub(2) .. '"',
    '"status":' .. http,
    '"detail":' .. message,
    '"reason":"' .. reason .. '"',
  }
  if remedy then parts[#parts + 1] = '"remedy":' .. remedy end
  if #errors > 0 then parts[#parts + 1] = '"errors":[' .. table.concat(errors, ',') .. ']' end
  return http, table.concat(parts, ',') .. '}'
end

local UNREADABLE = '{"type":"urn:isthmus:problem:internal","title":"Internal","status":500,'
  .. '"detail":"The server failed on this request.","reason":"INTERNAL"}'

function envoy_on_response(handle)
  local headers = handle:headers()
  local status = tonumber(headers:get(':status'))
  if not status or status < 400 or not headers:get('grpc-status') then return end
  if headers:get('content-type') ~= 'application/json' then return end
  local body = handle:body(true)
  local json = body:length() <= BODY_BYTES_MAX and body:getBytes(0, body:length()) or ''
  local ok, http, text = pcall(document, json)
  if not ok then http, text = 500, UNREADABLE end
  headers:replace(':status', tostring(http))
  headers:replace('content-type', 'application/problem+json')
  headers:replace('content-length', tostring(body:setBytes(text)))
  if http == 401 then headers:replace('www-authenticate', 'Bearer error="invalid_token"') end
  if http == 429 or http == 503 then headers:replace('retry-after', '1') end
end
