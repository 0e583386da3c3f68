// The comparison bench. `props.value` is what nag/page/cells.py `value` returns. These scripts
// share one scope, in the order of cells.SCRIPTS. Everything that came from a person or a model
// goes through textContent.
const bench = element.closest('#bench') || element;
const still = matchMedia('(prefers-reduced-motion: reduce)');
const phone = matchMedia('(max-width: 780px)');
const NOTHING = { cells: [], chips: [], hint: '', over: true, request: null };
const STATES = {
  queued: 'waiting',
  loading: 'loading the model',
  step: 'step',
  decoding: 'decoding',
  done: 'done',
  stopped: 'stopped',
  failed: 'failed',
};
const BUSY = ['queued', 'loading', 'step', 'decoding'];

// What the visitor has chosen to look at, and what was seen before.
const view = {
  name: phone.matches ? 'wipe' : 'side',
  a: 'none',
  b: 'nag',
  wipe: 50,
  vertical: false,
  gain: 3,
  mix: 100,
  pace: 650,
  zoom: 1,
  x: 0,
  y: 0,
  fit: true,
  step: null,
};
const finished = new Map(); // column -> its cell as it was last done, to lie faint under the next
const former = new Map(); // column -> the finished cell before that one: "alpha .85 → .3"
const pins = []; // cells of earlier runs that stay as columns
const previews = new Map(); // column -> [preview of step 1, ...] of the run that is shown
let fields = null; // the page's fields now, by name

function value() {
  return props.value && props.value.cells ? props.value : NOTHING;
}
function columns() {
  return [...value().cells, ...pins];
}
function columnOf(key) {
  return columns().find(cell => cell.key === key);
}
function source(cell) {
  return cell ? (cell.image && cell.image.url) || cell.preview || '' : '';
}
function film(cell) {
  return (cell && cell.video && cell.video.url) || '';
}
function busy(now = value()) {
  return now.over === false;
}
function tell(text) {
  $('p.told').textContent = text;
}

function setSource(image, url) {
  if (!url) image.removeAttribute('src');
  else if (image.getAttribute('src') !== url) image.src = url;
}

function changed(made, now) {
  return Object.keys(made || {}).filter(name => name in now && !same(made[name], now[name]));
}
