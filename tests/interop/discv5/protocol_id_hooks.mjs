let id = 'discv5'

export function initialize (data) {
  id = data.id
}

export async function load (url, context, next) {
  const module = await next(url, context)
  if (url.includes('/@chainsafe/discv5/lib/packet/') && id !== 'discv5') {
    module.source = Buffer.from(module.source).toString().replaceAll('"discv5"', JSON.stringify(id))
  }
  return module
}
