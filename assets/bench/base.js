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

// Every setting that makes a picture: its name where two are compared, in a line, and the column
// that alone uses it. tests/test_page.py compares this list with the page's fields.
const MADE_OF = {
  preset: ['Model', 'model'],
  prompt: ['Prompt', 'words'],
  negative_prompt: ['Negative prompt', 'not'],
  seed: ['Seed', 'seed'],
  num_inference_steps: ['Steps', 'steps'],
  guidance_scale: ['CFG scale', 'CFG'],
  nag_scale: ['NAG scale', 'scale'],
  nag_tau: ['Tau', 'tau'],
  nag_alpha: ['Alpha', 'alpha'],
  nag_end: ['NAG until', 'until'],
  nag_normalisation: ['Norm bounded', 'norm bounded'],
  nag_refinement: ['Blended', 'blended'],
  nasa_scale: ['NASA scale', 'NASA', 'nasa'],
  ong_scale: ['ONG scale', 'ONG', 'ong'],
  vsf_scale: ['VSF scale', 'VSF', 'vsf'],
  vsf_bias: ['VSF bias', 'VSF bias', 'vsf'],
  negpip_scale: ['NegPiP weight', 'NegPiP', 'negpip'],
  width: ['Width', 'width'],
  height: ['Height', 'height'],
  num_frames: ['Frames', 'frames'],
  guidance: ['Columns', 'columns'],
};

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

// A run's settings without those that none of its columns uses: moved, they change no picture.
function used(request) {
  return Object.fromEntries(
    Object.entries(request).filter(([name]) => {
      const column = (MADE_OF[name] || [])[2];
      return !column || request.guidance.includes(column);
    }),
  );
}

function changed(made, now) {
  return Object.keys(made || {}).filter(name => name in now && !same(made[name], now[name]));
}
