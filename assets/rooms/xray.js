// X-ray: what tau cuts, layer by step. The recording holds R at a few scales, so knobs move here
// without a run.
// settings at which a recording can be read
const READABLE = ['nag_scale', 'nag_tau', 'nag_alpha', 'nag_normalisation', 'nag_refinement'];
let frame = 99; // of a video; at first the middle one
let chosen = [0, 0],
  decoded = null,
  from = null;

function value() {
  return props.value || { state: 'empty' };
}

// Half precision, little endian.
function halves(text) {
  const bytes = Uint8Array.from(atob(text), one => one.charCodeAt(0)),
    view = new DataView(bytes.buffer),
    out = new Float32Array(bytes.length / 2);
  for (let i = 0; i < out.length; i++) {
    const half = view.getUint16(2 * i, true),
      power = (half >> 10) & 31,
      part = half & 1023;
    const size = power
      ? power === 31
        ? Infinity
        : 2 ** (power - 15) * (1 + part / 1024)
      : (2 ** -14 * part) / 1024;
    out[i] = half & 32768 ? -size : size;
  }
  return out;
}

function numbers(layer, step) {
  const now = value();
  if (from !== now) {
    from = now;
    decoded = now.layers.map(one => one.numbers.map(text => text && halves(text)));
  }
  return decoded[layer][step];
}

// R of every patch at a scale: straight between the two recorded scales around it, exact at them.
function ratios(layer, step, scale) {
  const now = value(),
    all = numbers(layer, step),
    wide = now.scales.length + 2;
  if (!all) return null;
  let upper = now.scales.findIndex(one => one >= scale);
  upper = Math.max(1, upper < 0 ? now.scales.length - 1 : upper);
  const share = (scale - now.scales[upper - 1]) / (now.scales[upper] - now.scales[upper - 1]),
    out = new Float32Array(all.length / wide);
  for (let i = 0; i < out.length; i++)
    out[i] =
      all[i * wide + upper - 1] + share * (all[i * wide + upper] - all[i * wide + upper - 1]);
  return out;
}

// |Zout - Z+| / |Z+| of every patch before alpha, from the two products.
function changes(layer, step, scale, tau) {
  const now = value(),
    all = numbers(layer, step),
    wide = now.scales.length + 2,
    r = ratios(layer, step, scale);
  return (
    r &&
    r.map((one, i) => {
      const kept = Math.min(1, tau / Math.max(one, 1e-6)),
        phi = scale - 1,
        along = all[i * wide + wide - 2],
        across = all[i * wide + wide - 1];
      return Math.sqrt(
        Math.max(
          0,
          (kept - 1) ** 2 + 2 * (kept - 1) * kept * phi * along + (kept * phi) ** 2 * across,
        ),
      );
    })
  );
}

function share(list, tau) {
  return list.reduce((sum, one) => sum + (one > tau), 0) / list.length;
}

function everyPlace(of) {
  const now = value(),
    out = [];
  now.layers.forEach((layer, l) =>
    layer.numbers.forEach((text, k) => {
      if (text) out.push(...of(l, k));
    }),
  );
  return out.sort((a, b) => a - b);
}

function knobs() {
  const here = settings(),
    made = value().made || {};
  // the two that a switch under More turns off; a tau that is off cuts nothing
  const bound = here.nag_normalisation ?? made.nag_normalisation ?? true,
    blend = here.nag_refinement ?? made.nag_refinement ?? true;
  return {
    scale: here.nag_scale || made.nag_scale,
    tau: bound ? here.nag_tau || made.nag_tau : Infinity,
    bound,
    blend,
  };
}

// Within what the recorded model takes: a move beyond it would be refused.
function within(name, number) {
  const [low, high] = (value().ranges || {})[name] || [-Infinity, Infinity];
  return Math.min(high, Math.max(low, number));
}

function percent(part) {
  return Math.round(100 * part);
}
function brief(number) {
  return String(Math.round(100 * number) / 100).replace(/^0\./, '.');
}

function draw() {
  const now = value(),
    running = now.state === 'running';
  $('.go').hidden = running;
  $('.halt').hidden = !running;
  setTimeout(lend); // when the word is there
  $('.xray').hidden = now.state !== 'done';
  $('.first').hidden = running || now.state === 'done';
  $('.verdict').hidden = now.state !== 'done';
  $('.go').textContent = now.state === 'done' ? 'Record again' : 'Record';
  $('.cost').textContent =
    now.state === 'done'
      ? Math.max(1, Math.round(now.bytes / 1000)) +
        ' kB for this picture' +
        (now.whole ? '' : ', evenly spaced patches are shown')
      : '';
  if (running)
    $('.what').textContent = now.step
      ? 'Recording, step ' + now.step + ' of ' + now.total
      : 'Loading the model';
  else if (now.state !== 'done')
    $('.what').textContent =
      'Draws NAG once more and keeps how far it pushed every patch, in every layer and step.';
  for (const name of SAVED) $('.' + name).disabled = now.state !== 'done';
  deliver(now.file);
  if (now.state !== 'done') return;
  const here = settings(),
    moved = Object.entries(now.made)
      .filter(([name, one]) => here[name] !== undefined && !same(here[name], one))
      .map(([name]) => name);
  $('.what').textContent =
    now.layers.length +
    ' guided layers, ' +
    now.steps +
    ' steps. ' +
    (moved.some(name => !READABLE.includes(name))
      ? 'This is of other words or settings than those above: record again to see theirs.'
      : moved.length
        ? 'Knobs have moved: exact for the first layer and step, an estimate behind it.'
        : 'Move tau, alpha or scale: nothing is drawn anew.');
  drawHeat(now);
  drawPlace(now);
  drawSuggest(now);
}

function drawHeat(now) {
  const { scale, tau, bound } = knobs(),
    heat = $('.heat'),
    shape = now.layers.length + 'x' + now.steps;
  heat.style.gridTemplateColumns = 'max-content repeat(' + now.steps + ', minmax(18px, 1fr))';
  $('.title').textContent = bound
    ? 'How much of the picture tau ' + brief(tau) + ' cuts'
    : 'Tau is off and cuts nothing';
  if (heat.dataset.shape !== shape) {
    heat.dataset.shape = shape;
    heat.replaceChildren();
    now.layers.forEach((layer, l) => {
      make('span', 'l', heat, layer.short).title = layer.name;
      layer.numbers.forEach((text, k) => {
        const cell = make('button', 'c', heat);
        cell.addEventListener('click', () => {
          chosen = [l, k];
          draw();
        });
      });
    });
    make('span', 'l', heat, 'step');
    for (let k = 1; k <= now.steps; k++) make('span', 't', heat, k);
  }
  if (!now.layers[chosen[0]] || !now.layers[chosen[0]].numbers[chosen[1]]) chosen = [0, 0];
  const buttons = every('.c', heat);
  heat.style.setProperty('--heat-h', Math.max(20, Math.min(58, 240 / now.layers.length)) + 'px');
  now.layers.forEach((layer, l) =>
    layer.numbers.forEach((text, k) => {
      const cell = buttons[l * now.steps + k],
        list = ratios(l, k, scale),
        part = list ? share(list, tau) : 0;
      cell.disabled = !list;
      cell.style.setProperty('--v', part);
      cell.classList.toggle('hi', part > 0.65);
      cell.textContent = list ? percent(part) : '';
      cell.title =
        layer.name +
        ', step ' +
        (k + 1) +
        (!list ? ': not guided' : bound ? ': ' + percent(part) + ' % above tau' : ': tau is off');
      cell.setAttribute('aria-label', cell.title);
      cell.setAttribute('aria-pressed', String(chosen[0] === l && chosen[1] === k));
    }),
  );
  every('.l', heat).forEach((node, l) => node.classList.toggle('on', l === chosen[0]));
  every('.t', heat).forEach((node, k) => node.classList.toggle('on', k === chosen[1]));
}

function drawPlace(now) {
  const { scale, tau, bound } = knobs(),
    [l, k] = chosen,
    layer = now.layers[l],
    list = ratios(l, k, scale);
  const place = layer.short + ', step ' + (k + 1),
    image = $('.frame img');
  const film = now.frames.length > 1 && layer.frames.length === now.frames.length;
  if (frame >= now.frames.length) frame = now.frames.length >> 1;
  const url = film ? now.frames[frame].picture : now.picture;
  if (image.getAttribute('src') !== url) image.src = url;
  $('.film').hidden = !film;
  if (film) {
    $('.film input').max = now.frames.length - 1;
    $('.film input').value = frame;
    $('.film output').textContent = now.frames[frame].number + ' of ' + now.frames[frame].of;
  }
  image.alt = 'The recorded picture, with the patches that tau cuts in ' + place;
  $('.where').textContent = 'Where: ' + place;
  $('.grid-of').textContent = layer.grid
    ? layer.grid[1] + ' × ' + layer.grid[0] + (film ? ' patches a frame' : ' patches')
    : 'its tokens lie on no grid';
  const patches = $('.patches');
  patches.replaceChildren();
  const most = bound ? Math.max(...list, tau + 0.01) : Infinity;
  if (layer.grid) {
    patches.style.gridTemplate =
      'repeat(' + layer.grid[0] + ', 1fr) / repeat(' + layer.grid[1] + ', 1fr)';
    const wide = layer.grid[0] * layer.grid[1];
    const shown = film ? list.slice(frame * wide, (frame + 1) * wide) : list;
    shown.forEach(one => {
      const patch = make('i', one > tau ? 'clip' : '', patches);
      patch.style.setProperty('--v', bound ? (one - tau) / (most - tau) : 0);
      patch.title = 'R ' + brief(one) + (one > tau ? ', cut to ' + brief(tau) : '');
    });
  }
  drawHist(list, tau, place);
  drawCut(list);
}

// Whether NAG does nothing at the scale of the knob; a recording says nothing of it then.
function isOff() {
  return knobs().scale <= 1;
}

// What tau cuts here, and one that cuts less.
function drawCut(list) {
  const { scale, tau, bound } = knobs(),
    cut = percent(share(list, tau)),
    next = within('nag_tau', Math.round(10 * tau * 1.5) / 10),
    hint = $('.hint'),
    moves = $('.moves');
  hint.replaceChildren();
  moves.replaceChildren();
  if (!bound) {
    make('b', '', hint, 'Tau is off: nothing is cut.');
    hint.append(' “Bound the norm” is not ticked under More.');
    return;
  }
  if (isOff()) {
    make('b', '', hint, 'NAG is off at scale 1: it pushes nothing, and there is nothing to cut.');
    return;
  }
  const there = same(next, tau); // already as high as this model has it
  const less = percent(share(list, next)) !== cut;
  make(
    'b',
    '',
    hint,
    'Tau ' +
      brief(tau) +
      ' cuts ' +
      cut +
      ' % of the patches here' +
      (there
        ? ', and goes no higher.'
        : less
          ? ', tau ' + brief(next) + ' would cut ' + percent(share(list, next)) + ' %.'
          : '.'),
  );
  const all = everyPlace((a, b) => ratios(a, b, scale));
  hint.append(' Over all layers and steps it cuts ' + percent(share(all, tau)) + ' %.');
  if (there || !less) return;
  make('span', '', moves, 'Next');
  make('button', 'button next', moves, 'Try tau ' + brief(next)).addEventListener('click', () =>
    trigger('apply', { set: { nag_tau: next } }),
  );
}

function drawHist(list, tau, place) {
  const node = $('.hist'),
    bins = 40,
    low = Math.min(1, ...list),
    bound = tau < Infinity,
    high = Math.max(bound ? tau * 1.2 : 0, ...list) + 1e-6,
    counts = new Array(bins).fill(0);
  list.forEach(one => {
    counts[Math.min(bins - 1, Math.floor(((one - low) / (high - low)) * bins))]++;
  });
  const most = Math.max(...counts);
  node.replaceChildren();
  counts.forEach((count, i) => {
    const bar = make('i', low + ((i + 0.5) / bins) * (high - low) > tau ? 'over' : '', node);
    bar.style.setProperty('--v', count / most);
  });
  const said = bound
    ? 'tau ' + brief(tau) + ': ' + percent(share(list, tau)) + ' % cut'
    : 'tau is off';
  if (bound) {
    const line = make('u', '', node);
    line.style.setProperty('--x', (tau - low) / (high - low));
    line.title = said;
  }
  node.setAttribute('aria-label', said);
  $('.hist-title').textContent = 'Push on each patch: ' + place;
  const axis = $('.haxis');
  axis.replaceChildren();
  for (let i = 0; i <= 4; i++) make('span', '', axis, brief(low + (i / 4) * (high - low)));
}

// The rules of nag.xray.XRay.suggest, at the scale of the knob.
function drawSuggest(now) {
  const { scale, bound, blend } = knobs(),
    all = everyPlace((l, k) => ratios(l, k, scale)),
    at = list => list[Math.min(list.length - 1, Math.ceil(0.9 * (list.length - 1)))];
  const fitting = Math.max(1, Math.ceil(10 * at(all) - 1e-3) / 10),
    tau = bound ? within('nag_tau', fitting) : Infinity,
    change = at(everyPlace((l, k) => changes(l, k, scale, tau)));
  const most = Math.min(1, Math.floor(20 / Math.max(change, 1e-6) + 1e-3) / 20),
    alpha = within('nag_alpha', most);
  const off = [!bound && 'tau', !blend && 'alpha'].filter(Boolean).join(' and ');
  $('.rule').textContent =
    'At scale ' +
    brief(scale) +
    ': the smallest tau that leaves nine patches in ten as they are, and the largest alpha at ' +
    'which nine in ten change by at most their own size. A place to begin; it says nothing of ' +
    'the picture.' +
    (off ? ' Under More, ' + off + (off.includes(' ') ? ' are' : ' is') + ' off.' : '');
  const row = $('.suggest .rowbtn'),
    set = { ...(bound && { nag_tau: tau }), ...(blend && { nag_alpha: alpha }) },
    parts = [bound && 'tau ' + brief(tau), blend && 'alpha ' + brief(alpha)].filter(Boolean),
    text = parts.length && scale > 1 ? 'Set ' + parts.join(', ') : '';
  if (row.dataset.text === text) return;
  row.dataset.text = text;
  row.replaceChildren();
  if (!text) return;
  make('button', 'button next', row, text).addEventListener('click', () =>
    trigger('apply', { set }),
  );
}

$('.film input').addEventListener('input', event => {
  frame = Number(event.target.value);
  drawPlace(value());
});
$('.go').addEventListener('click', () => trigger('submit', {}));
$('.halt').addEventListener('click', () => trigger('stop', {}));
for (const name of SAVED)
  $('.' + name).addEventListener('click', () => trigger('download', { export: name }));
addEventListener('nag-settings', () => {
  if (element.isConnected && visible()) draw();
});
document.addEventListener('input', event => {
  // a knob that is being dragged, before it is let go
  const knob =
    element.isConnected &&
    visible() &&
    event.target.closest &&
    event.target.closest('#nag_tau, #nag_scale, #nag_alpha');
  if (!knob || event.target.type !== 'range' || !window.nagSettings) return;
  window.nagSettings[NAMES.indexOf(knob.id)] = Number(event.target.value);
  draw();
});
watch('value', draw);
draw();
